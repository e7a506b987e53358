"""The page of a night: the verdict with the grid of models and stages, then changes, trends, layers and cost."""

import html
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table as TerminalTable

from stratoscope.pipelines.audit.assess import Assessment, Verdict
from stratoscope.pipelines.audit.previous_runs import MAX_NIGHTS
from stratoscope.pipelines.audit.steps import PROCESSES
from stratoscope.pipelines.reporting.formatting import memory_text, number_text, run_facts, size_text
from stratoscope.results import COLOURS, SYMBOLS, Manifest, Page, PageSection, Table, TableCell, data_range, style
from stratoscope.scoring import MetricKind
from stratoscope.tables.audit import KeyMetricRow, StageRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from stratoscope.results.report import Tone
    from stratoscope.scoring.drift import Drift

Trends = Mapping[str, Sequence[KeyMetricRow]]
"""Key metrics by the label of the night, in chronological order."""
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
"""Text and tone of each verdict. For colour-blind readers, a sign conveys the same as the tone."""
TRENDS: dict[MetricKind, tuple[str, str]] = {
    "retention": ("Retention of pruned models", "after / before"),
    "auroc": ("AUROC of wrong answers", "AUROC"),
    "hallucination_rate": ("Hallucination rate", "share of questions"),
    "gain": ("Gain of fine-tuning", "relative to the base"),
    "seed_spread": ("Spread of forecasters over seeds", "deviation / mean"),
    "error": ("Squared error of forecasters", "squared error, standardised"),
    "failures": ("Failed cells of forecasters", "share of cells"),
    "stability": ("Split-half correlation of layer scores, the least of a model", "rank correlation"),
    "order": ("Rank correlation of layers with the night before", "rank correlation"),
}
"""Title and vertical axis of the trends of each kind of key metric."""
GRID_NOTE = "Each verdict in the grid leads to the stage's own report, or to the error output of its process."
MAX_LINES = 24
"""Maximum number of lines in a plot of trends; lines with a regression come first."""


def summary_table(rows: Sequence[StageRow]) -> TerminalTable:
    """Return the grid of models and stages for the terminal."""
    stages = list(dict.fromkeys(row.stage for row in rows))
    table = TerminalTable("model", *stages, box=None)
    for model, own in groupby(rows, lambda row: row.model):
        verdicts = {row.stage: _sign_text(row.verdict) for row in own}
        table.add_row(escape(model), *(verdicts.get(stage, "") for stage in stages))
    return table


def _sign_text(verdict: str) -> str:
    """Return the text of a verdict that another version may have written."""
    return next((text for known, (text, _) in SIGNS.items() if known == verdict), verdict)


def build_page(assessments: Sequence[Assessment], manifest: Manifest, trends: Trends, previous: str | None) -> Page:
    """Compose the page of a night.

    Args:
        assessments: the assessed steps.
        manifest: manifest of the audit.
        trends: key metrics of this and of previous nights.
        previous: run_id of the previous night, or None.
    """
    sections = [
        _changes_section(assessments, previous),
        *_trends_section(assessments, trends),
        *_layers_section(assessments),
        _metrics_section(assessments),
        _cost_section(assessments),
    ]
    return Page(
        title=_title(assessments, previous),
        summary=f"Audit {manifest.config['name']}, {manifest.started[:16].replace('T', ' ')}. {GRID_NOTE}",
        verdict=PageSection("Verdict", _verdict(assessments, previous), tables=[_grid(assessments)]),
        sections=sections,
        facts=[("Run", manifest.run_id), ("Started", manifest.started), *run_facts(manifest)],
    )


def _title(assessments: Sequence[Assessment], previous: str | None) -> str:
    """Return the result of the night in one line."""
    regressed = [f"{a.subject} ({a.stage})" for a in assessments if a.verdict == "regression"]
    failed = [f"{a.subject} ({a.stage})" for a in assessments if not a.result.succeeded]
    if regressed:
        return f"Regression of {_listed(regressed)}"
    if failed:
        return f"No result for {_listed(failed)}"
    return "No regression" if previous else "First night: nothing to compare with yet"


def _listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names as text, with the number of the others."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _verdict(assessments: Sequence[Assessment], previous: str | None) -> list[str]:
    """Return a sentence on the night, followed by its first few regressions."""
    regressions = [f"{a.subject}, {a.stage}: {text}" for a in assessments for text in a.regressions]
    rest = len(regressions) - 2
    more = [f"{rest} more regressions are listed under 'What changed'."] if rest > 0 else []
    return [headline(assessments, previous), *regressions[:2], *more]


def headline(assessments: Sequence[Assessment], previous: str | None) -> str:
    """Summarise the night in one sentence."""
    regressed = sum(a.verdict == "regression" for a in assessments)
    failed = sum(not a.result.succeeded for a in assessments)
    reused = sum(a.result.status == "reused" for a in assessments)
    number = len(assessments)
    first = f"{regressed} of {number} stages regressed since {previous}"
    parts = [first if previous else f"{number} stages in the first night of this name"]
    parts.append(f"{failed} did not succeed" if failed else "all succeeded")
    parts += [f"{reused} {'was' if reused == 1 else 'were'} unchanged and not computed again"] if reused else []
    return "; ".join(parts) + "."


def _changes_section(assessments: Sequence[Assessment], previous: str | None) -> PageSection:
    regressed = [[*_place(a), _sign(a), text] for a in assessments for text in a.regressions]
    failed = [[*_place(a), _sign(a), a.result.error] for a in assessments if a.result.error]
    changed = [[*_place(a), TableCell("changed", tone="soft"), "; ".join(a.changes)] for a in assessments if a.changes]
    rows = [*regressed, *failed, *changed]
    if not rows:
        return PageSection("What changed", ["Nothing." if previous else "There is no previous night."])
    return PageSection("What changed", tables=[Table(["model", "stage", "", "change"], rows)])


def _grid(assessments: Sequence[Assessment]) -> Table:
    """Return the verdicts by model and stage."""
    stages = list(dict.fromkeys(a.stage for a in assessments))
    rows: list[list[str | TableCell]] = []
    for subject in dict.fromkeys(a.subject for a in assessments):
        own = {a.stage: a for a in assessments if a.subject == subject}
        rows.append([subject, *(_sign(own[stage], link=True) if stage in own else "" for stage in stages)])
    # A filter is useful only in long grids.
    return Table(["model", *stages], rows, filtered="Show only models and verdicts with" if len(rows) > 8 else None)


def _trends_section(assessments: Sequence[Assessment], trends: Trends) -> Iterator[PageSection]:
    nights = list(trends)[-MAX_NIGHTS:]
    if len(nights) < 2:
        return
    regressed = {(a.subject, c.metric.name) for a in assessments for c in a.comparisons if c.regressed}
    figures, paragraphs = [], []
    for kind, (title, axis) in TRENDS.items():
        lines = _trend_lines(trends, nights, kind)
        if lines:
            selected = sorted(lines, key=lambda line: line not in regressed)[:MAX_LINES]
            chosen = {line: lines[line] for line in selected}
            figures.append(_trend(title, axis, chosen, nights, regressed))
            if len(selected) < len(lines):
                paragraphs.append(f"{title}: {len(selected)} of {len(lines)} lines; figures.parquet has all of them.")
    if figures:
        yield PageSection("Trends", paragraphs, figures)


def _trend_lines(trends: Trends, nights: Sequence[str], kind: MetricKind) -> dict[tuple[str, str], dict[str, float]]:
    """Return the values by night of each metric of a kind, by model and name."""
    lines: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for night in nights:
        for row in trends[night]:
            if row.kind == kind:
                lines[row.model, row.figure][night] = row.value
    return lines


FEW_NIGHTS = 4
"""Maximum number of nights for which the axis of a trend shows labels of several lines."""


def _trend(
    title: str,
    axis: str,
    lines: Mapping[tuple[str, str], Mapping[str, float]],
    nights: Sequence[str],
    regressed: Collection[tuple[str, str]] = (),
) -> "Figure":
    """Draw a line for each model and metric over nights; lines with a regression are thick."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for index, ((model, name), values) in enumerate(lines.items()):
        figure.add_trace(
            Scatter(
                x=list(values),
                y=list(values.values()),
                name=html.escape(f"{model}: {name}"),
                mode="lines+markers",
                line={"color": COLOURS[index % len(COLOURS)], "width": 4 if (model, name) in regressed else 1.5},
                marker={"symbol": SYMBOLS[index // len(COLOURS) % len(SYMBOLS)], "size": 8},
            )
        )
    style(figure, "night", axis, title=title, height=320)
    drawn = [value for line in lines.values() for value in line.values()]
    figure.update_yaxes(range=data_range(drawn, drawn))
    # By default, the nights would appear in the order in which the lines contain them.
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=nights)
    if len(nights) <= FEW_NIGHTS:  # date, time and name on separate lines, if there is room
        figure.update_xaxes(tickvals=nights, ticktext=[html.escape(night).replace(" ", "<br>") for night in nights])
    return figure


def _layers_section(assessments: Sequence[Assessment]) -> Iterator[PageSection]:
    drifts = {a.subject: a.drift for a in assessments if a.drift}
    if not drifts:
        return
    figures = [_shift_map(subject, drift) for subject, drift in drifts.items()]
    rows = [
        [subject, s.tap, str(s.layer), f"{s.shift:+.3f}", f"{s.low:+.3f} to {s.high:+.3f}", f"{s.p_value:.4f}"]
        for subject, drift in drifts.items()
        for s in drift.shifts
        if s.moved
    ]
    note = (
        "Difference of mean log AVSS between this night and the last one that has the model, for each layer; 0.1 is "
        "about 10 % more. Layers are numbered from 0. Intervals and p-values hold for all layers and taps of a model "
        "together."
    )
    tables = [Table(["model", "tap", "layer", "shift", "interval", "p"], rows)] if rows else []
    limits = [f"{subject}: {drift.limit}." for subject, drift in drifts.items() if drift.limit]
    none = ["No layer moved."] if not rows and len(limits) < len(drifts) else []
    yield PageSection("Layers that moved", [note, *limits, *none], figures, tables)


def _shift_map(subject: str, drift: "Drift") -> "Figure":
    from plotly.graph_objects import Figure, Heatmap

    taps = list(dict.fromkeys(s.tap for s in drift.shifts))
    shifts = [[s.shift for s in drift.shifts if s.tap == tap] for tap in taps]
    limit = max(0.02, *(abs(value) for row in shifts for value in row))
    figure = Figure(
        Heatmap(
            z=shifts,
            y=taps,
            x=list(range(len(shifts[0]))),
            zmin=-limit,
            zmax=limit,
            colorscale=[[0, COLOURS[0]], [0.5, "#f7f7f7"], [1, COLOURS[1]]],
            hovertemplate="%{y}<br>layer %{x}: %{z:+.3f}<extra></extra>",
            xgap=2,
            ygap=4,
        )
    )
    style(
        figure,
        "layer",
        "",
        title=f"{subject}: shift of log AVSS",
        height=140 + 34 * len(taps),
        by_layer=True,
    )
    return figure


def _metrics_section(assessments: Sequence[Assessment]) -> PageSection:
    rows: list[list[str | TableCell]] = []
    for a in assessments:
        for c in a.comparisons:
            sign: str | TableCell = TableCell("✗ regression", tone="bad") if c.regressed else ""
            limit = "" if c.threshold is None else f"{c.threshold:g}"
            before = number_text(c.before.value if c.before else None, ".4g")
            loss = number_text(c.loss, "+.4f")
            rows.append([a.subject, a.stage, c.metric.name, before, f"{c.metric.value:.4g}", loss, limit, sign])
    header = ["model", "stage", "metric", "before", "now", "loss", "threshold", ""]
    return PageSection("Key metrics", tables=[Table(header, rows, filtered="Show only rows with")])


def _cost_section(assessments: Sequence[Assessment]) -> PageSection:
    rows = [[a.subject, a.stage, a.result.status, *_cost([a]), *_speed(a.manifest)] for a in assessments]
    for subject in dict.fromkeys(a.subject for a in assessments):
        rows.append([subject, "all", "", *_cost([a for a in assessments if a.subject == subject]), "", ""])
    cost = ["seconds", "CPU hours", "GPU hours", "size of the run"]
    header = ["model", "stage", "status", *cost, "memory of the largest worker", "tokens/s"]
    return PageSection("Cost", tables=[Table(header, rows)])


def _cost(assessments: Sequence[Assessment]) -> list[str]:
    """Return seconds, CPU hours, GPU hours and size of steps. Earlier versions did not record all of them."""
    results = [a.result for a in assessments]
    cpu_hours = [result.cpu_hours for result in results if result.cpu_hours is not None]
    sizes = [result.num_bytes for result in results if result.num_bytes is not None]
    gpu_hours = sum(a.gpu_hours for a in assessments)
    return [
        f"{sum(result.seconds for result in results):,.0f}",
        number_text(sum(cpu_hours) if cpu_hours else None, ".3f"),
        f"{gpu_hours:.2f}" if gpu_hours else "",
        size_text(sum(sizes) if sizes else None),
    ]


def _speed(manifest: Manifest | None) -> list[str]:
    """Return the memory of the largest worker and the tokens per second of a run."""
    if manifest is None:
        return ["", ""]
    memory = memory_text(manifest.peak_memory_bytes, manifest.peak_gpu_memory_bytes)
    return [memory, number_text(manifest.tokens_per_second, ",.0f")]


def _sign(a: Assessment, *, link: bool = False) -> TableCell:
    text, tone = SIGNS[a.verdict]
    return TableCell(text, _link(a) if link else None, tone)


def _link(a: Assessment) -> str | None:
    """Return the location of a step's own report or error output, relative to the night's folder."""
    if a.manifest:
        return f"../../{a.manifest.job}/{a.manifest.run_id}/report.html"
    return f"{PROCESSES}/{a.step.key}.err" if a.result.status != "skipped" else None


def _place(a: Assessment) -> list[str | TableCell]:
    return [a.subject, TableCell(a.stage, _link(a))]
