"""What the search for EAVSS thresholds shows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.formatting import run_facts
from stratoscope.results import COLOURS, Manifest, Page, PageSection, Storage, Table, read_table, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Row = dict[str, Any]
SHOWN = 10


def label(row: Row) -> str:
    """Name a candidate."""
    parts = [row["metric"], row["tap"], row["part"], row["variance"], f"{row['epsilon_kind']} {row['epsilon']:.3g}"]
    return ", ".join([*parts, f"propensity {row['propensity']:g}", f"level {row['level']:g}"])


def summary_table(storage: Storage) -> TerminalTable:
    """Return the best trials."""
    table = TerminalTable(title="Best trials; AUROC on held-out questions, mean over data sets", title_justify="left")
    for name in ("candidate", "layers", "flagged", "random sets", "difference"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    for row in _best(read_table(storage, "trials").to_pylist())[:SHOWN]:
        table.add_row(
            label(row),
            f"{row['num_layers']:.1f}",
            f"{row['auroc']:.3f}",
            f"{row['random']:.3f}",
            f"{row['over_random']:+.3f}",
        )
    return table


def build_page(storage: Storage, manifest: Manifest) -> Page:
    """Compose the report of a run from its tables."""
    trials = read_table(storage, "trials").to_pylist()
    outcomes = read_table(storage, "outcomes").to_pylist()
    done = [row for row in trials if row["status"] == "done"]
    facts = manifest.facts
    header = ["candidate", "origin", "layers", "AUROC", "random sets", "difference", "status"]
    rows = [
        [
            label(row),
            row["origin"],
            *("" if row[n] is None else f"{row[n]:.3g}" for n in ("num_layers", "auroc", "random", "over_random")),
            row["status"],
        ]
        for row in [*_best(trials), *(row for row in trials if row["status"] != "done")]
    ]
    return Page(
        title=f"What flags the hallucinating layers of {facts['model']}",
        summary=(
            f"{len(trials)} trials, judged on {', '.join(facts['choose_on'])}. No model ran: all is computed from "
            "stored statistics. The definitions of EAVSS are ours, for its paper's could not be recovered."
        ),
        sections=[
            PageSection("Verdict", facts["verdicts"], [], [_outcome_table(outcomes, facts["best"])]),
            PageSection(
                "Flagged layers against random ones",
                [
                    "Each trial: the area under the ROC curve of its flagged layers on held-out questions, against the "
                    "mean of random sets of as many layers. Above the line flagged layers do better."
                ],
                [_scatter(done)],
            ),
            PageSection("Trials", [], [], [Table(header, rows)]),
        ],
        facts=list(_facts(manifest)),
    )


def _best(trials: list[Row]) -> list[Row]:
    """Return the finished trials from the best on, each candidate once."""
    done = sorted((row for row in trials if row["status"] == "done"), key=lambda row: -row["objective"])
    return list({label(row): row for row in reversed(done)}.values())[::-1]


def _outcome_table(outcomes: list[Row], best: str) -> Table:
    header = ["data set", "role", "flagged layers", "AUROC", "interval", "less random", "interval", "could show"]
    rows = [
        [
            o["dataset"],
            o["role"].replace("_", " "),
            " ".join(map(str, o["flagged_layers"])) or "none",
            f"{o['auroc']:.3f}",
            f"{o['ci_low']:.3f} to {o['ci_high']:.3f}",
            f"{o['over_random']:+.3f}",
            f"{o['over_random_low']:+.3f} to {o['over_random_high']:+.3f}",
            f"{o['detectable']:.3f}",
        ]
        for o in outcomes
        if o["trial_id"] == best
    ]
    return Table(header, rows)


def _scatter(done: list[Row]) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for colour, name in zip(COLOURS, dict.fromkeys(row["metric"] for row in done), strict=False):
        rows = [row for row in done if row["metric"] == name]
        figure.add_trace(
            Scatter(
                x=[row["random"] for row in rows],
                y=[row["auroc"] for row in rows],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 8},
                text=[label(row) for row in rows],
                hovertemplate="%{text}<br>random %{x:.3f}, flagged %{y:.3f}<extra></extra>",
            )
        )
    values = [row[name] for row in done for name in ("random", "auroc")]
    ends = [min(values), max(values)]
    figure.add_trace(Scatter(x=ends, y=ends, mode="lines", line={"color": "#b8c4cf", "dash": "dot"}, showlegend=False))
    style(figure, "random sets", "flagged layers", height=420)
    return figure


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "Run", manifest.run_id
    yield "Statistics", manifest.facts["statistics"]
    yield "Weights", manifest.fingerprints["weights"]
    yield "Trials", str(manifest.counts["trials"])
    yield from run_facts(manifest)
