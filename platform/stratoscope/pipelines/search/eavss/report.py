"""The terminal summary and the report page of a search with target eavss."""

import html
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.figures import IntervalMark, interval_plot
from stratoscope.pipelines.reporting.formatting import list_text, model_label, number_text, run_facts
from stratoscope.pipelines.reporting.sections import PageColumn, field_column, interval_column, page_table
from stratoscope.pipelines.search.eavss import verdict
from stratoscope.results import COLOURS, INK, MUTED, SYMBOLS, Manifest, Page, PageSection, Run, data_range, style
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

AXIS = "AUROC of flagged layers, less that of random sets"
NUM_SHOWN = 10
"""Maximum number of trials that the terminal shows."""


def candidate_label(row: DefinitionTrialRow) -> str:
    """Return a name for a candidate."""
    epsilon = f"{row.epsilon_kind} {number_text(row.epsilon, '.3g')}".rstrip()
    parts = [row.metric, row.tap, row.part, row.variance, epsilon]
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
    facts, config = run.manifest.facts, run.manifest.config
    num_sets = config["thresholds"]["separation"]["random_sets"]
    best = [row for row in outcomes if row.trial_id == facts["best"]]
    candidate = next(row for row in trials if row.trial_id == facts["best"])
    model = model_label(facts["model"])
    done = [row for row in trials if row.status == "done"]
    return Page(
        title=verdict.title(best, num_sets, len(done)),
        summary=(
            f"{len(trials)} trials on {facts['model']}, compared on {list_text(facts['choose_on'], 6)}. No model ran: "
            "all results come from stored statistics. The definitions of EAVSS are ours, because the paper's formulas "
            "could not be recovered."
        ),
        verdict=PageSection(
            "Verdict",
            verdict.sentences(candidate, best, num_sets),
            [_differences(best, num_sets, model, is_first=True)],
        ),
        sections=[
            PageSection("All findings", facts["verdicts"]),
            PageSection(
                "The best trial, by data set",
                [],
                [_differences(best, num_sets, model)],
                [page_table(best, OUTCOME_COLUMNS)],
            ),
            PageSection(
                "Flagged layers against random ones", [SCATTER_NOTE], [_scatter(done, outcomes, num_sets, model)]
            ),
            PageSection("Trials", [], [], [page_table(_in_order(trials), TRIAL_COLUMNS, "Show only trials with")]),
        ],
        facts=list(_facts(run.manifest)),
    )


SCATTER_NOTE = (
    "Each point is a trial: the area under the ROC curve of its flagged layers on held-out questions, against the mean "
    "of random sets of as many layers. Above the line flagged layers are better. A trial is grey unless the interval "
    "of its difference excludes 0 on every data set that trials are compared on."
)
TRIAL_COLUMNS: list[PageColumn[Any]] = [
    PageColumn("candidate", candidate_label, "Definition, tap, part, variance and thresholds."),
    field_column(DefinitionTrialRow, "origin"),
    field_column(DefinitionTrialRow, "num_layers", ".3g", "layers"),
    field_column(DefinitionTrialRow, "auroc", ".3f", "AUROC"),
    field_column(DefinitionTrialRow, "random", ".3f", "random sets"),
    field_column(DefinitionTrialRow, "over_random", "+.3f", "difference"),
    PageColumn("status", lambda row: row.status if row.error is None else f"{row.status}: {row.error}"),
]
OUTCOME_COLUMNS: list[PageColumn[Any]] = [
    field_column(DefinitionOutcomeRow, "dataset", header="data set"),
    PageColumn("role", lambda row: row.role.replace("_", " "), "Whether trials were compared on it, or never used it."),
    PageColumn("flagged layers", lambda row: " ".join(map(str, row.flagged_layers)) or "none"),
    field_column(DefinitionOutcomeRow, "auroc", ".3f", "AUROC"),
    interval_column("interval", ".3f"),
    field_column(DefinitionOutcomeRow, "over_random", "+.3f", "less random"),
    interval_column("interval of the difference", "+.3f", "over_random_low", "over_random_high"),
    field_column(DefinitionOutcomeRow, "detectable", ".3f"),
]


def _best(trials: Sequence[DefinitionTrialRow]) -> list[DefinitionTrialRow]:
    """Return the finished trials in descending order of their objective, each candidate once."""
    finished = [row for row in trials if row.objective is not None]
    ordered = sorted(finished, key=lambda row: -(row.objective or 0.0))
    return list({candidate_label(row): row for row in reversed(ordered)}.values())[::-1]


def _in_order(trials: Sequence[DefinitionTrialRow]) -> list[DefinitionTrialRow]:
    """Return the finished trials, the best first, then those that failed."""
    return [*_best(trials), *(row for row in trials if row.status != "done")]


def _differences(
    outcomes: Sequence[DefinitionOutcomeRow], num_sets: int, model: str, *, is_first: bool = False
) -> "Figure":
    """Draw the best trial's difference between flagged and random layers by data set. The first screen shows few."""
    marks = [
        IntervalMark(
            f"{row.dataset} ({row.role.replace('_', ' ')})",
            row.over_random,
            row.over_random_low,
            row.over_random_high,
            verdict.is_better(row, num_sets) or verdict.is_worse(row, num_sets),
            note=f"{row.dataset}: AUROC {row.auroc:.3f}, random sets {row.random:.3f}",
        )
        for row in outcomes
    ]
    title = f"{model}: flagged layers against random ones"
    return interval_plot(marks, AXIS, title=title, form="+.3f", reference=0.0, with_reference=True, is_first=is_first)


def _scatter(
    trials: Sequence[DefinitionTrialRow], outcomes: Sequence[DefinitionOutcomeRow], num_sets: int, model: str
) -> "Figure":
    """Draw the AUROC of flagged layers against that of random layers, with one point for each trial."""
    from plotly.graph_objects import Figure, Scatter

    shown = [row for row in trials if row.random is not None and row.auroc is not None]
    random = [row.random for row in shown if row.random is not None]
    values = [*random, *(row.auroc for row in shown if row.auroc is not None)]
    ends = data_range(random, random)
    line = {"color": INK, "dash": "dot", "width": 1}
    figure = Figure([*_trial_points(shown, _findings(outcomes, num_sets))])
    figure.add_trace(Scatter(x=ends, y=ends, mode="lines", line=line, showlegend=False, hoverinfo="skip"))
    style(figure, "AUROC of random sets", "AUROC of flagged layers", title=f"{html.escape(model)}: trials", height=420)
    figure.update_xaxes(range=ends)
    figure.update_yaxes(range=data_range(values, values))
    return figure


def _findings(outcomes: Sequence[DefinitionOutcomeRow], num_sets: int) -> set[str]:
    """Return the trials whose flagged layers are better or worse than random ones on every data set."""
    found: dict[str, bool] = {}
    for row in outcomes:
        if row.role == "chosen_on":
            differs = verdict.is_better(row, num_sets) or verdict.is_worse(row, num_sets)
            found[row.trial_id] = found.get(row.trial_id, True) and differs
    return {trial for trial, differs in found.items() if differs}


def _trial_points(trials: Sequence[DefinitionTrialRow], findings: Collection[str]) -> Iterator["Scatter"]:
    """Yield up to two traces for each definition: trials within noise and trials beyond noise."""
    from plotly.graph_objects import Scatter

    for index, name in enumerate(dict.fromkeys(row.metric for row in trials)):
        for is_finding in (False, True):
            own = [row for row in trials if row.metric == name and (row.trial_id in findings) == is_finding]
            if not own:
                continue
            colour = COLOURS[index % len(COLOURS)] if is_finding else MUTED
            yield Scatter(
                x=[row.random for row in own],
                y=[row.auroc for row in own],
                mode="markers",
                name=name if is_finding else f"{name}, within noise",
                marker={"color": colour, "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 9},
                text=[html.escape(candidate_label(row)) for row in own],
                hovertemplate="%{text}<br>random %{x:.3f}, flagged %{y:.3f}<extra></extra>",
            )


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "Run", manifest.run_id
    yield "Statistics", manifest.facts["statistics"]
    yield "Weights", manifest.fingerprints["weights"]
    yield "Trials", str(manifest.counts["trials"])
    yield from run_facts(manifest)
