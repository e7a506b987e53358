"""The terminal summary and the report page of a search with target eavss."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.formatting import interval_text, number_text, run_facts
from stratoscope.results import COLOURS, Manifest, Page, PageSection, Run, Table, style
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NUM_SHOWN = 10
"""Number of trials in the terminal."""


def candidate_label(row: DefinitionTrialRow) -> str:
    """Return a name for a candidate."""
    parts = [row.metric, row.tap, row.part, row.variance, f"{row.epsilon_kind} {row.epsilon:.3g}"]
    return ", ".join([*parts, f"propensity {row.propensity:g}", f"level {row.level:g}"])


def summary_table(run: Run) -> TerminalTable:
    """Return the best trials."""
    table = TerminalTable(title="Best trials; AUROC on held-out questions, mean over data sets", title_justify="left")
    for name in ("candidate", "layers", "flagged", "random sets", "difference"):
        table.add_column(name, justify="left" if name == "candidate" else "right")
    for row in _best(DefinitionTrialRow.read(run.table("trials")))[:NUM_SHOWN]:
        table.add_row(
            candidate_label(row),
            number_text(row.num_layers, ".1f"),
            number_text(row.auroc, ".3f"),
            number_text(row.random, ".3f"),
            number_text(row.over_random, "+.3f"),
        )
    return table


def build_page(run: Run) -> Page:
    """Compose the report of a run."""
    trials = DefinitionTrialRow.read(run.table("trials"))
    outcomes = DefinitionOutcomeRow.read(run.table("outcomes"))
    facts = run.manifest.facts
    best_outcomes = [row for row in outcomes if row.trial_id == facts["best"]]
    return Page(
        title=f"Settings that flag the hallucinating layers of {facts['model']}",
        summary=(
            f"{len(trials)} trials, compared on {', '.join(facts['choose_on'])}. No model ran: all results come from "
            "stored statistics. The definitions of EAVSS are ours, because the paper's formulas could not be recovered."
        ),
        sections=[
            PageSection("Verdict", facts["verdicts"], [], [_outcome_table(best_outcomes)]),
            PageSection(
                "Flagged layers against random ones",
                [
                    "Each point is a trial: the area under the ROC curve of its flagged layers on held-out questions, "
                    "against the mean of random sets of as many layers. Above the line flagged layers are better."
                ],
                [_scatter([row for row in trials if row.status == "done"])],
            ),
            PageSection("Trials", [], [], [_trial_table(trials)]),
        ],
        facts=list(_facts(run.manifest)),
    )


def _best(trials: Sequence[DefinitionTrialRow]) -> list[DefinitionTrialRow]:
    """Return the finished trials in descending order of their objective, each candidate once."""
    finished = [row for row in trials if row.objective is not None]
    ordered = sorted(finished, key=lambda row: -(row.objective or 0.0))
    return list({candidate_label(row): row for row in reversed(ordered)}.values())[::-1]


def _trial_table(trials: Sequence[DefinitionTrialRow]) -> Table:
    header = ["candidate", "origin", "layers", "AUROC", "random sets", "difference", "status"]
    rows = [
        [
            candidate_label(row),
            row.origin,
            *(number_text(value, ".3g") for value in (row.num_layers, row.auroc, row.random, row.over_random)),
            row.status,
        ]
        for row in [*_best(trials), *(row for row in trials if row.status != "done")]
    ]
    return Table(header, rows)


def _outcome_table(outcomes: Sequence[DefinitionOutcomeRow]) -> Table:
    header = ["data set", "role", "flagged layers", "AUROC", "interval", "less random", "interval", "detectable"]
    rows = [
        [
            row.dataset,
            row.role.replace("_", " "),
            " ".join(map(str, row.flagged_layers)) or "none",
            f"{row.auroc:.3f}",
            interval_text(row.ci_low, row.ci_high, ".3f"),
            f"{row.over_random:+.3f}",
            interval_text(row.over_random_low, row.over_random_high, "+.3f"),
            f"{row.detectable:.3f}",
        ]
        for row in outcomes
    ]
    return Table(header, rows)


def _scatter(trials: Sequence[DefinitionTrialRow]) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for colour, name in zip(COLOURS, dict.fromkeys(row.metric for row in trials), strict=False):
        rows = [row for row in trials if row.metric == name]
        figure.add_trace(
            Scatter(
                x=[row.random for row in rows],
                y=[row.auroc for row in rows],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 8},
                text=[candidate_label(row) for row in rows],
                hovertemplate="%{text}<br>random %{x:.3f}, flagged %{y:.3f}<extra></extra>",
            )
        )
    values = [value for row in trials for value in (row.random, row.auroc) if value is not None]
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
