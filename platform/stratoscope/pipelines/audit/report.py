"""The page of a night: what changed first, then the grid of models and stages, trends, and what it took."""

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table as TerminalTable

from stratoscope.pipelines.audit.assess import Assessment, Verdict
from stratoscope.pipelines.audit.key_metrics import FigureKind
from stratoscope.pipelines.audit.previous_runs import MOST_NIGHTS
from stratoscope.pipelines.audit.steps import PROCESSES
from stratoscope.pipelines.reporting.formatting import number_text, run_facts
from stratoscope.results import COLOURS, SYMBOLS, Manifest, Page, PageSection, Table, TableCell, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from stratoscope.results.report import Tone

SIGNS: dict[Verdict, tuple[str, "Tone"]] = {
    "first": ("◦ first", "soft"),
    "same": ("= same", "soft"),
    "steady": ("✓ steady", "good"),
    "regression": ("✗ regression", "bad"),
    "failed": ("! failed", "warn"),
    "refused": ("! refused", "warn"),
    "over time": ("! over time", "warn"),
    "skipped": ("- skipped", "warn"),
}
"""Each with a sign, so that nobody needs the colour."""
NAMES: dict[FigureKind, str] = {
    "retention": "Retention of pruned models",
    "auroc": "AUROC of wrong answers",
    "hallucination_rate": "Hallucination rate",
    "gain": "Gain by mending",
    "seed_spread": "Spread over seeds",
    "error": "Squared error of forecasters",
    "order": "Rank correlation of layers with the night before",
}
MOST_LINES = 24
"""Of a plot of trends; what is regressed comes first."""


def summary_table(rows: Sequence[dict[str, Any]]) -> TerminalTable:
    """Return the grid for the terminal, from the rows of `models`."""
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    table = TerminalTable("model", *stages, box=None)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["stage"]: SIGNS[row["verdict"]][0] for row in rows if row["model"] == model}
        table.add_row(escape(model), *(own.get(stage, "") for stage in stages))
    return table


def build_page(
    found: Sequence[Assessment], manifest: Manifest, trends: Sequence[dict[str, object]], previous: str | None
) -> Page:
    """Compose the page of a night.

    Args:
        found: its steps.
        manifest: of the audit.
        trends: rows of `figures` of this and earlier nights, with the columns `night` and `run_id`, in order of nights.
        previous: run_id of the night before, or None.
    """
    sections = [
        _changes_section(found, previous),
        _grid_section(found),
        *_trends_section(found, trends),
        *_layers_section(found),
        _figures_section(found),
        _cost_section(found),
    ]
    return Page(
        title=f"Audit {manifest.config['name']}, {manifest.started[:10]}",
        summary=headline(found, previous),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def headline(found: Sequence[Assessment], previous: str | None) -> str:
    """Return the night in a sentence."""
    worse = sum(a.verdict == "regression" for a in found)
    lost = sum(not a.end.fine for a in found)
    same = sum(a.end.status == "reused" for a in found)
    since = f"since {previous}" if previous else "in the first night of this name"
    parts = [f"{worse} of {len(found)} stages got worse {since}" if previous else f"{len(found)} stages {since}"]
    parts.append(f"{lost} did not end well" if lost else "all ended well")
    parts += [f"{same} {'was' if same == 1 else 'were'} unchanged and not computed again"] if same else []
    return "; ".join(parts) + "."


def _changes_section(found: Sequence[Assessment], previous: str | None) -> PageSection:
    worse = [[*_where(a), _sign(a), text] for a in found for text in a.regressions]
    lost = [[*_where(a), _sign(a), a.end.error] for a in found if a.end.error]
    other = [[*_where(a), TableCell("changed", tone="soft"), "; ".join(a.changed)] for a in found if a.changed]
    rows = [*worse, *lost, *other]
    if not rows:
        return PageSection("What changed", ["Nothing."] if previous else ["There is no night before this one."])
    return PageSection("What changed", tables=[Table(["model", "stage", "", "what"], rows)])


def _grid_section(found: Sequence[Assessment]) -> PageSection:
    stages = list(dict.fromkeys(a.step.stage.name for a in found))
    rows: list[list[str | TableCell]] = []
    for subject in dict.fromkeys(a.subject for a in found):
        own = {a.step.stage.name: a for a in found if a.subject == subject}
        rows.append([subject, *(_sign(own[stage], link=True) if stage in own else "" for stage in stages)])
    table = Table(["model", *stages], rows, filtered="Show only models and verdicts with")
    return PageSection(
        "Models and stages",
        ["A click leads to the stage's own report, or to what its process had to say."],
        tables=[table],
    )


def _trends_section(found: Sequence[Assessment], trends: Sequence[dict[str, object]]) -> Iterator[PageSection]:
    nights = list(dict.fromkeys(str(row["night"]) for row in trends))[-MOST_NIGHTS:]
    if len(nights) < 2:
        return
    regressed = {(a.subject, c.figure.name) for a in found for c in a.compared if c.regressed}
    figures = []
    paragraphs = []
    for kind, title in NAMES.items():
        rows = [row for row in trends if row["kind"] == kind and row["night"] in nights]
        lines: dict[tuple[str, str], list[dict[str, object]]] = {}
        for row in rows:
            lines.setdefault((str(row["model"]), str(row["figure"])), []).append(row)
        if lines:
            shown = sorted(lines, key=lambda line: line not in regressed)[:MOST_LINES]
            figures.append(_trend(title, {line: lines[line] for line in shown}, nights))
            if len(shown) < len(lines):
                paragraphs.append(f"{title}: {len(shown)} of {len(lines)} lines are shown; all are in figures.parquet.")
    if figures:
        yield PageSection("Trends", paragraphs, figures)


def _trend(title: str, lines: dict[tuple[str, str], list[dict[str, object]]], nights: Sequence[str]) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for index, ((model, name), rows) in enumerate(lines.items()):
        figure.add_trace(
            Scatter(
                x=[str(row["night"]) for row in rows],
                y=[row["value"] for row in rows],
                name=html.escape(f"{model}: {name}"),
                mode="lines+markers",
                line={"color": COLOURS[index % len(COLOURS)]},
                marker={"symbol": SYMBOLS[index // len(COLOURS) % len(SYMBOLS)], "size": 8},
            )
        )
    style(figure, "", title, height=300 + 22 * len(lines))
    figure.update_layout(showlegend=True, legend={"orientation": "v", "y": -0.2, "yanchor": "top", "x": 0})
    # Otherwise nights would stand in the order in which lines have them.
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=nights)
    return figure


def _layers_section(found: Sequence[Assessment]) -> Iterator[PageSection]:
    from plotly.graph_objects import Figure, Heatmap

    compared = [a for a in found if a.drift]
    if not compared:
        return
    figures, rows = [], []
    for a in compared:
        assert a.drift is not None
        taps = list(dict.fromkeys(s.tap for s in a.drift.shifts))
        shifts = [[s.shift for s in a.drift.shifts if s.tap == tap] for tap in taps]
        limit = max(0.02, *(abs(value) for row in shifts for value in row))
        figure = Figure(
            Heatmap(
                z=shifts,
                y=[html.escape(f"{a.subject}, {tap}") for tap in taps],
                x=list(range(len(shifts[0]))),
                zmin=-limit,
                zmax=limit,
                colorscale=[[0, COLOURS[0]], [0.5, "#f7f7f7"], [1, COLOURS[1]]],
                hovertemplate="%{y}<br>layer %{x}: %{z:+.3f}<extra></extra>",
                xgap=2,
                ygap=4,
            )
        )
        style(figure, "layer", "", height=120 + 34 * len(taps), by_layer=True)
        figures.append(figure)
        rows += [
            [a.subject, s.tap, str(s.layer), f"{s.shift:+.3f}", f"{s.low:+.3f} to {s.high:+.3f}", f"{s.p_value:.4f}"]
            for s in a.drift.shifts
            if s.moved
        ]
    said = (
        "Difference of mean log AVSS between this night and the last one that has the model, layer by layer; 0.1 is "
        "about 10 % more. Layers are numbered from 0. Intervals and p-values hold for all layers and taps of a model "
        "together."
    )
    tables = [Table(["model", "tap", "layer", "shift", "interval", "p"], rows)] if rows else []
    yield PageSection("Layers that moved", [said] if rows else [said, "None moved."], figures, tables)


def _figures_section(found: Sequence[Assessment]) -> PageSection:
    rows: list[list[str | TableCell]] = []
    for a in found:
        for c in a.compared:
            sign: str | TableCell = TableCell("✗ regression", tone="bad") if c.regressed else ""
            limit = "" if c.threshold is None else f"{c.threshold:g}"
            before = number_text(c.before.value if c.before else None, ".4g")
            loss = number_text(c.loss, "+.4f")
            rows.append(
                [a.subject, a.step.stage.name, c.figure.name, before, f"{c.figure.value:.4g}", loss, limit, sign]
            )
    header = ["model", "stage", "figure", "before", "now", "loss", "threshold", ""]
    return PageSection("Key figures", tables=[Table(header, rows, filtered="Show only rows with")])


def _cost_section(found: Sequence[Assessment]) -> PageSection:
    rows = []
    for a in found:
        m = a.manifest
        memory = f"{m.peak_memory_bytes / 1e9:.2f} GB" if m and m.peak_memory_bytes else ""
        rate = f"{m.tokens_per_second:,.0f}" if m and m.tokens_per_second else ""
        gpu = f"{a.gpu_hours:.2f}" if a.gpu_hours else ""
        rows.append([a.subject, a.step.stage.name, a.end.status, f"{a.end.seconds:,.0f}", gpu, memory, rate])
    for subject in dict.fromkeys(a.subject for a in found):
        seconds = sum(a.end.seconds for a in found if a.subject == subject)
        gpu_hours = sum(a.gpu_hours for a in found if a.subject == subject)
        rows.append([subject, "all", "", f"{seconds:,.0f}", f"{gpu_hours:.2f}" if gpu_hours else "", "", ""])
    header = ["model", "stage", "status", "seconds", "GPU hours", "memory of the largest worker", "tokens/s"]
    return PageSection("What it took", tables=[Table(header, rows)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "Run", manifest.run_id
    yield "Begun", manifest.started
    yield from run_facts(manifest)


def _sign(a: Assessment, *, link: bool = False) -> TableCell:
    text, tone = SIGNS[a.verdict]
    return TableCell(text, _link(a) if link else None, tone)


def _link(a: Assessment) -> str | None:
    """Return where a step's own report is, seen from the night's folder."""
    if a.manifest:
        return f"../../{a.manifest.job}/{a.manifest.run_id}/report.html"
    return f"{PROCESSES}/{a.step.key}.err" if a.end.status != "skipped" else None


def _where(a: Assessment) -> list[str | TableCell]:
    return [a.subject, TableCell(a.step.stage.name, _link(a))]
