"""The report page and the terminal table of a mitigation run, from its tables and manifest."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rich.table import Table as TerminalTable

from stratoscope.evaluation import LOWER_IS_BETTER
from stratoscope.evaluation.comparison import NOT_DEFINED
from stratoscope.mitigation import BASE
from stratoscope.pipelines.mitigation import figures, verdict
from stratoscope.pipelines.mitigation.outcome import QUESTION_METRICS
from stratoscope.pipelines.reporting.data_notes import part_counts
from stratoscope.pipelines.reporting.formatting import memory_text, model_facts, model_label, number_text, run_facts
from stratoscope.pipelines.reporting.sections import PageColumn, field_column, interval_column, page_table
from stratoscope.results import Manifest, Page, PageSection, Run, TableRow
from stratoscope.tables.mitigation import (
    LayerSeparationRow,
    TrainingStepRow,
    TuningTrialRow,
    VariantComparisonRow,
    VariantErrorRow,
    VariantEvaluationRow,
    VariantRow,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ReportRow = TypeVar("ReportRow", bound=TableRow)
AnyPageColumn = PageColumn[Any]
MAX_ROWS = 12
"""Maximum number of rows in the figure of the verdict. With more rows, it shows only one metric."""


def read_rows(run: Run, name: str, row_type: type[ReportRow]) -> list[ReportRow]:
    """Return the rows of one of the run's tables; an empty list if the run has no such table."""
    return row_type.read(run.table(name)) if run.storage.exists(f"{name}.parquet") else []


def summary_table(run: Run) -> TerminalTable:
    """Return each metric before and after, by variant, averaged over seeds."""
    rows = _variant_evaluations(run)
    names = list(dict.fromkeys(row.variant for row in rows))
    table = TerminalTable(title="Before and after, on held-out items; means over seeds", title_justify="left")
    for name in ("data set", "metric", "items", "before", *names):
        table.add_column(name, justify="left" if name in ("data set", "metric") else "right")
    for dataset, metric in dict.fromkeys((row.dataset, row.metric) for row in rows):
        own = [row for row in rows if (row.dataset, row.metric) == (dataset, metric)]
        after = [_mean_text([row.after for row in own if row.variant == name]) for name in names]
        table.add_row(dataset, metric, str(own[0].n), _mean_text([own[0].before]), *after)
    return table


def build_page(run: Run) -> Page:
    """Compose the report of a run from its tables."""
    manifest = run.manifest
    facts, config = manifest.facts, manifest.config
    evaluation = _variant_evaluations(run)
    variants = read_rows(run, "variants", VariantRow)
    model = model_label(config["model"]["source"])
    comparison = read_rows(run, "comparison", VariantComparisonRow)
    rows = verdict.VerdictRows(
        model=model,
        num_layers=facts["num_layers"],
        recovery=facts["recovery"],
        variants=variants,
        comparison=comparison,
        evaluation=evaluation,
        errors=read_rows(run, "errors", VariantErrorRow),
    )
    sections = [
        PageSection("All findings", list(facts["verdicts"])),
        *_change_section(evaluation, config["evaluation"]["confidence"], model, recovery=facts["recovery"]),
        PageSection("Trainings", [], [], [page_table(variants, VARIANT_COLUMNS)]),
    ]
    if comparison:
        sections.append(_comparison_section(comparison))
    if separation := read_rows(run, "separation", LayerSeparationRow):
        sections.append(_separation_section(separation, model))
    if steps := read_rows(run, "training", TrainingStepRow):
        sections.append(_training_section(steps, model))
    if tuning := read_rows(run, "tuning", TuningTrialRow):
        sections.append(_tuning_section(tuning))
    numbers = page_table(evaluation, EVALUATION_COLUMNS, "Show only rows with")
    sections.append(PageSection("All numbers", [], [], [numbers]))
    action = "recovered after pruning" if facts["recovery"] else "fine-tuned in some of its layers"
    trainings = f"{len(variants)} training{'' if len(variants) == 1 else 's'}"
    return Page(
        title=verdict.title(rows),
        summary=(
            f"{config['model']['source']}, {action}: {trainings} of {config['train']['max_steps']} steps. All models "
            "are evaluated on questions and texts that were used neither for training nor for the choice of layers. "
            "Layers are numbered from 0, as in model.layers."
        ),
        verdict=PageSection("Verdict", verdict.sentences(rows), _picture(rows)),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _picture(rows: verdict.VerdictRows) -> list["Figure"]:
    """Return the figure of the verdict: changes of metrics where higher is better, or the retention after recovery."""
    if rows.recovery:
        if not rows.evaluation:
            return []
        metric = verdict.main_metric([row.metric for row in rows.evaluation])
        own = [row for row in rows.evaluation if row.metric == metric]
        figure = figures.changes(own, metric, rows.model, retention=True, is_first=True)
        return [figure] if figure else []
    own_metrics = [row for row in rows.comparison if row.other == BASE and row.dataset is not None]
    own_metrics = [row for row in own_metrics if verdict.is_defined(row.difference)]
    questions = [row for row in own_metrics if row.metric in QUESTION_METRICS] or own_metrics
    shares = [row for row in questions if row.metric not in LOWER_IS_BETTER] or questions
    if len({(row.dataset, row.metric) for row in shares}) > MAX_ROWS:
        metric = verdict.main_metric([row.metric for row in shares])
        shares = [row for row in shares if row.metric == metric]
    return [figures.differences(shares, rows.model)] if shares else []


def _variant_evaluations(run: Run) -> list[VariantEvaluationRow]:
    return [row for row in read_rows(run, "evaluation", VariantEvaluationRow) if row.variant != BASE]


def _change_section(
    rows: Sequence[VariantEvaluationRow], confidence: float, model: str, *, recovery: bool
) -> Iterator[PageSection]:
    metrics = dict.fromkeys(row.metric for row in rows)
    drawn = [figures.changes([row for row in rows if row.metric == m], m, model, retention=recovery) for m in metrics]
    charts = [figure for figure in drawn if figure]
    if not charts:
        return
    quantity = "Retention of the whole model, after / before" if recovery else "Change, after - before"
    text = (
        f"{quantity}: one point for each seed, with paired {confidence:.0%} intervals over items. Grey intervals are "
        f"within noise."
    )
    if recovery and any(row.retention is None for row in rows):
        text += " Retention is not defined where the whole model scores 0; such points are left out."
    yield PageSection("Before and after", [text], charts)


def _column(header: str, cell: Callable[[Any], str]) -> AnyPageColumn:
    return PageColumn(header, cell)


def _ratio_column(name: str, header: str, form: str) -> AnyPageColumn:
    """Return a column that shows a ratio, or a text if the ratio is not defined."""
    return PageColumn(header, lambda row: number_text(getattr(row, name), form) or NOT_DEFINED)


VARIANT_COLUMNS = [
    field_column(VariantRow, "variant"),
    field_column(VariantRow, "seed"),
    _column("layers trained", lambda row: " ".join(map(str, row.layers))),
    _column("layers dropped", lambda row: " ".join(map(str, row.dropped_layers)) or "none"),
    field_column(VariantRow, "trained_parameters", ","),
    field_column(VariantRow, "learning_rate", ".3g"),
    _column("steps", lambda row: f"{row.steps}{', diverged' if row.diverged else ''}"),
    field_column(VariantRow, "tokens", ","),
    field_column(VariantRow, "seconds", ".0f"),
    field_column(VariantRow, "step_seconds", ".0f", header="seconds of steps"),
    _column("peak memory of a worker", lambda row: memory_text(row.peak_memory_bytes, row.peak_gpu_memory_bytes)),
]
COMPARISON_COLUMNS = [
    field_column(VariantComparisonRow, "variant"),
    field_column(VariantComparisonRow, "other"),
    _column("data set", lambda row: row.dataset or "all, mean"),
    field_column(VariantComparisonRow, "metric"),
    field_column(VariantComparisonRow, "n", header="items"),
    field_column(VariantComparisonRow, "seeds"),
    field_column(VariantComparisonRow, "mean", ".3f"),
    field_column(VariantComparisonRow, "spread", ".3f", header="sd"),
    field_column(VariantComparisonRow, "other_mean", ".3f", header="other's mean"),
    field_column(VariantComparisonRow, "other_spread", ".3f", header="other's sd"),
    field_column(VariantComparisonRow, "difference", "+.3f"),
    interval_column("interval", "+.3f"),
    _ratio_column("relative", "relative", "+.1%"),
    field_column(VariantComparisonRow, "p_holm", ".2g", header="p, corrected"),
    field_column(VariantComparisonRow, "least_p", ".2g", header="least p"),
]
EVALUATION_COLUMNS = [
    field_column(VariantEvaluationRow, "variant"),
    field_column(VariantEvaluationRow, "seed"),
    field_column(VariantEvaluationRow, "dataset", header="data set"),
    field_column(VariantEvaluationRow, "metric"),
    field_column(VariantEvaluationRow, "n", header="items"),
    field_column(VariantEvaluationRow, "before", ".3f"),
    field_column(VariantEvaluationRow, "after", ".3f"),
    field_column(VariantEvaluationRow, "difference", "+.3f"),
    interval_column("interval", "+.3f"),
    _ratio_column("retention", "after / before", ".1%"),
]


def _comparison_section(rows: Sequence[VariantComparisonRow]) -> PageSection:
    return PageSection(
        "Variants against the base and each other",
        [
            "Each variant is the mean over its seeds; sd is the standard deviation over them. Intervals and p-values "
            "come from a paired bootstrap over items and do not include the variation between seeds. p is corrected, "
            "by Holm's method, for testing the data sets of a metric together; least p is what so many items, draws "
            "and data sets allow."
        ],
        [],
        [page_table(rows, COMPARISON_COLUMNS)],
    )


def _separation_section(rows: Sequence[LayerSeparationRow], model: str) -> PageSection:
    return PageSection(
        "Right and wrong answers inside the model",
        [
            "The cosine of the question's end with its right answer, minus that with its wrong ones, in each layer, as "
            "the mean over held-out questions. States are standardised by the base's. Above 0 a layer puts the right "
            "answer closer."
        ],
        [figures.separation(rows, name, model) for name in dict.fromkeys(row.dataset for row in rows)],
    )


def _training_section(rows: Sequence[TrainingStepRow], model: str) -> PageSection:
    text = "The loss and its terms by step, one line for each training."
    return PageSection("Training", [text], figures.training(rows, model))


def _tuning_section(rows: Sequence[TuningTrialRow]) -> PageSection:
    settings = ("learning_rate", "temperature", "contrastive", "forgetting", "num_layers")
    searched = [name for name in settings if any(getattr(row, name) is not None for row in rows)]
    columns: list[AnyPageColumn] = [
        field_column(TuningTrialRow, "variant"),
        field_column(TuningTrialRow, "trial_id", header="trial"),
        *(field_column(TuningTrialRow, name, "g") for name in searched),
        field_column(TuningTrialRow, "reports"),
        field_column(TuningTrialRow, "objective", ".4f"),
        _column("chosen", lambda row: "yes" if row.chosen else ""),
        _column("status", lambda row: row.error or row.status),
    ]
    text = (
        "Trials are evaluated on questions or texts that are used for nothing else. ASHA stopped the trials with fewer "
        "reports."
    )
    return PageSection("Search", [text], [], [page_table(rows, columns)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts = manifest.facts
    yield from model_facts(manifest, facts["num_parameters"])
    for name, counts in facts["questions"].items():
        yield f"Data set {name}", part_counts(counts)
    num_samples = facts.get("samples", 0)  # older versions generated none
    generated = f", and {num_samples:,} that the model generated" if num_samples else ""
    yield "Texts", f"{facts['texts']:,} for training{generated}"
    yield "Terms", ", ".join(f"{weight:g} {name}" for name, weight in facts["terms"].items())
    given = manifest.config["layers"]
    yield "Layers trained", facts["flags"] or (f"given: {given}" if given else "all that remain")
    yield (
        "Workers",
        f"{facts['workers']}, {facts['threads_per_worker']} threads each, ZeRO {manifest.config['train']['zero']}",
    )
    yield "Bit-identical tensors", str(facts["frozen_tensors"])
    yield from run_facts(manifest)


def _mean_text(values: Sequence[float | None]) -> str:
    """Return the mean of numbers as text, or a note if one of them is not defined."""
    numbers = [value for value in values if value is not None]
    return f"{sum(numbers) / len(numbers):.3f}" if numbers and len(numbers) == len(values) else NOT_DEFINED
