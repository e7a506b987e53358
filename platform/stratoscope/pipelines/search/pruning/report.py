"""The terminal summary and the report page of a search with target pruning."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.figures import IntervalMark, interval_plot
from stratoscope.pipelines.reporting.formatting import (
    interval_text,
    list_text,
    model_facts,
    model_label,
    number_text,
    run_facts,
)
from stratoscope.pipelines.reporting.sections import PageColumn, field_column, interval_column, page_table
from stratoscope.pipelines.search.pruning import verdict
from stratoscope.pipelines.search.pruning.figures import (
    curve_section,
    front_figure,
    layer_list,
    layers_axis,
    random_figure,
    raster_section,
    score_label,
    size_axis,
    speed_axis,
    speed_text,
)
from stratoscope.pipelines.search.pruning.progress import progress_section
from stratoscope.results import Manifest, Page, PageSection, Run
from stratoscope.tables.pruning import ComparisonRow, FrontRow, PruningTrialRow, SpeedRow

PERCENT = ".1%"


def summary_table(run: Run) -> TerminalTable:
    """Return the front: the layers that each set drops, and its retention."""
    table = TerminalTable(title="Pareto front, retention on held-out items; * is the chosen set", title_justify="left")
    for name in ("", "layers dropped", "score", "retention", "interval", "million parameters", "speed"):
        right = name in ("retention", "million parameters", "speed")
        table.add_column(name, justify="right" if right else "left")
    for row in FrontRow.read(run.table("front")):
        table.add_row(
            "*" if row.chosen else "",
            layer_list(row),
            score_label(row),
            number_text(row.held_out_raw, PERCENT),
            interval_text(row.held_out_raw_low, row.held_out_raw_high, PERCENT),
            f"{row.parameters / 1e6:,.1f}",
            speed_text(row),
        )
    table.caption = (
        f"the whole model has {run.manifest.facts['parameters'] / 1e6:,.1f} million parameters; speed is that of "
        "forward passes, 1 for the whole model"
    )
    return table


def build_page(run: Run) -> Page:
    """Compose the report of a run."""
    trials = PruningTrialRow.read(run.table("trials"))
    front = FrontRow.read(run.table("front"))
    comparisons = ComparisonRow.read(run.table("comparison"))
    finished = [row for row in trials if row.status == "done" and row.retention_raw is not None]
    manifest, facts = run.manifest, run.manifest.facts
    model = model_label(manifest.config["model"]["source"])
    chosen = verdict.chosen_row(front)
    sections = [
        PageSection("All findings", [*facts["verdicts"], *facts.get("against_variance", [])]),
        PageSection("The front", [FRONT_NOTE], [], [page_table(front, FRONT_COLUMNS)]),
        *([curve_section(finished, comparisons, model)] if finished else []),
        *progress_section(trials, manifest.config["search"]["objective"], model),
        *_size_sections(finished, front, facts["parameters"], model),
        raster_section(finished, facts["num_layers"], model),
        *_task_section(comparisons, model),
        *_random_section(chosen, manifest, model, is_shown=not _differ_in_size(finished)),
    ]
    if run.storage.exists("speed.parquet"):
        sections.append(_speed_section(SpeedRow.read(run.table("speed")), facts.get("exported", "")))
    sections.append(PageSection("All trials", [], [], [page_table(trials, TRIAL_COLUMNS, "Show only trials with")]))
    return Page(
        title=verdict.title(chosen, comparisons, facts["num_layers"]),
        summary=(
            f"{len(trials)} trials by {manifest.config['search']['algorithm']} over the {facts['num_layers']} layers "
            f"of {manifest.config['model']['source']}, on {list_text(list(facts['tasks']), 6)}. Layers are numbered "
            "from 0, as in model.layers."
        ),
        verdict=_verdict_section(finished, front, comparisons, manifest),
        sections=sections,
        facts=list(_facts(manifest)),
    )


FRONT_NOTE = (
    "The front holds the sets that no other set of the search beats in both size and retention. They were chosen on "
    "the items of the search; held-out items were used for no choice."
)
TASK_NOTE = (
    "Raw retention is after / before. Retention above chance subtracts the accuracy of guessing from both; it is left "
    "out where the whole model is not two standard errors above chance. Intervals are paired bootstrap over items. For "
    "language-model text, accuracy is that of the next token, beside bits per byte."
)


def _column(header: str, cell: Any, meaning: str = "") -> PageColumn[Any]:
    return PageColumn(header, cell, meaning)


def _above_chance(row: ComparisonRow) -> str:
    if row.above_chance is None:
        return "the whole model is not above chance"
    interval = interval_text(row.above_chance_low, row.above_chance_high, PERCENT)
    return f"{number_text(row.above_chance, PERCENT)} ({interval})"


def _difference(row: ComparisonRow) -> str:
    difference = interval_text(row.difference_low, row.difference_high, "+.3f")
    return f"{difference}: within noise" if row.within_noise else difference


def _accuracy(value: float | None, bits: float | None) -> str:
    return number_text(value, ".3f") + ("" if bits is None else f", {bits:.3f} bits per byte")


LAYERS_COLUMN = _column("layers dropped", layer_list, "Dropped layers, numbered from 0.")
SPEED_COLUMN = _column("speed", speed_text, "Speed of the forward pass against the whole model's, with its range.")
FRONT_COLUMNS = [
    _column("", lambda row: "chosen" if row.chosen else ""),
    LAYERS_COLUMN,
    _column("score", score_label, "Score whose lowest layers the set drops, and the share of layers."),
    field_column(PruningTrialRow, "retention_raw", PERCENT, "retention, search"),
    field_column(FrontRow, "held_out_raw", PERCENT, "retention, held out"),
    interval_column("interval", PERCENT, "held_out_raw_low", "held_out_raw_high"),
    field_column(FrontRow, "held_out_above_chance", PERCENT, "above chance"),
    SPEED_COLUMN,
]
TRIAL_COLUMNS = [
    field_column(PruningTrialRow, "trial_id", header="trial"),
    field_column(PruningTrialRow, "origin"),
    _column("score", score_label, "Score whose lowest layers the set drops, and the share of layers."),
    LAYERS_COLUMN,
    field_column(PruningTrialRow, "retention_raw", PERCENT, "retention"),
    interval_column("interval", PERCENT, "retention_raw_low", "retention_raw_high"),
    field_column(PruningTrialRow, "share_of_items", ".0%", "of the items"),
    _column("status", lambda row: row.status if row.error is None else f"{row.status}: {row.error}"),
]
TASK_COLUMNS = [
    field_column(ComparisonRow, "task"),
    field_column(ComparisonRow, "metric", header="measure"),
    _column("items of", lambda row: row.part.replace("_", " ").replace("search", "the search")),
    field_column(ComparisonRow, "items"),
    field_column(ComparisonRow, "chance", ".3f"),
    _column("before", lambda row: _accuracy(row.before, row.bits_per_byte_before), "Accuracy of the whole model."),
    _column("after", lambda row: _accuracy(row.after, row.bits_per_byte_after), "Without the dropped layers."),
    field_column(ComparisonRow, "raw", PERCENT),
    interval_column("interval of raw", PERCENT, "raw_low", "raw_high"),
    _column("above chance", _above_chance, "Retention above chance, with its interval."),
    _column("difference", _difference, "Interval of after - before."),
]
SPEED_COLUMNS = [
    _column("", lambda row: row.what),
    _column("original", lambda row: f"{row.before:,.1f} {row.unit}", "Median of the original."),
    _column("exported", lambda row: f"{row.after:,.1f} {row.unit}", "Median of the exported checkpoint."),
    _column(
        "ratio",
        lambda row: f"{row.gain:.2f} ({row.gain_low:.2f} to {row.gain_high:.2f})",
        "Median ratio of a pair of runs with its range, above 1 where the checkpoint is better.",
    ),
]


def _verdict_section(
    trials: Sequence[PruningTrialRow],
    front: Sequence[FrontRow],
    comparisons: Sequence[ComparisonRow],
    manifest: Manifest,
) -> PageSection:
    """Return the verdict's sentences with a figure or table that supports them: sizes, random sets, or the front."""
    chosen = verdict.chosen_row(front)
    text = verdict.sentences(chosen, comparisons, manifest)
    model = model_label(manifest.config["model"]["source"])
    against = verdict.random_comparison(manifest.facts)
    if _differ_in_size(trials):
        return PageSection("Verdict", text, [front_figure(trials, front, layers_axis(), model)])
    if against and chosen:
        return PageSection("Verdict", text, [random_figure(against, chosen, model)])
    return PageSection("Verdict", text, [], [page_table(front, FRONT_COLUMNS)] if front else [])


def _differ_in_size(trials: Sequence[PruningTrialRow]) -> bool:
    return len({len(row.dropped_layers) for row in trials}) > 1


def _size_sections(
    trials: Sequence[PruningTrialRow], front: Sequence[FrontRow], parameters: int, model: str
) -> Iterator[PageSection]:
    """Yield the section on speed and size, if sets differ in size."""
    if len({row.parameters for row in trials}) < 2:
        return
    has_speed = all(row.speed is not None for row in trials)
    axes = [*([speed_axis()] if has_speed else []), size_axis(parameters)]
    yield PageSection(
        "Retention against speed and size",
        [
            "All finished trials and the front, with intervals on held-out items. Speed is that of forward passes over "
            "a batch, without the vocabulary head, against the whole model's: the median ratio of paired runs, with "
            "its range in tables. It depends on the dropped layers' number and kind alone."
        ],
        [front_figure(trials, front, axis, model) for axis in axes],
    )


def _task_section(comparisons: Sequence[ComparisonRow], model: str) -> Iterator[PageSection]:
    chosen = [row for part in ("held_out", "search") for row in comparisons if (row.kind, row.part) == ("chosen", part)]
    if not chosen:
        return
    marks = [
        IntervalMark(f"{row.task}, {row.metric}", row.raw, row.raw_low, row.raw_high, is_finding=not row.within_noise)
        for row in chosen
        if row.part == "held_out" and row.raw is not None and row.raw_low is not None and row.raw_high is not None
    ]
    title = f"{model}: the chosen set on held-out items"
    axis = "raw retention (after / before)"
    figures = [interval_plot(marks, axis, title=title, form=".0%", reference=1.0)] if marks else []
    yield PageSection("The chosen set, task by task", [TASK_NOTE], figures, [page_table(chosen, TASK_COLUMNS)])


def _random_section(
    chosen: FrontRow | None, manifest: Manifest, model: str, *, is_shown: bool
) -> Iterator[PageSection]:
    """Yield the section on random sets. Its figure is left out if the verdict shows it."""
    comparison = verdict.random_comparison(manifest.facts)
    if comparison is None or chosen is None:
        return
    yield PageSection(
        "Against random sets",
        [
            f"{len(comparison.random)} random sets of the chosen size on held-out items; p = {comparison.p_value:.3f}, "
            f"of which {comparison.least_p:.3f} is the least that so many sets allow."
        ],
        [] if is_shown else [random_figure(comparison, chosen, model)],
    )


def _speed_section(rows: Sequence[SpeedRow], checkpoint: str) -> PageSection:
    return PageSection(
        "The exported checkpoint",
        [
            f"{checkpoint} was loaded in a fresh process by plain transformers. Its logits, and the tokens that it "
            "generates with the KV cache, are bit-identical to those of the pruned model. Times are medians of paired "
            "runs; the ratio is the median of their ratios with its range. The forward pass is the measure of speed of "
            "this page; decoding is the generation of one sequence, token by token."
        ],
        [],
        [page_table(rows, SPEED_COLUMNS)],
    )


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts, counts = manifest.facts, manifest.counts
    yield from model_facts(manifest, facts["parameters"])
    yield "Statistics", facts["statistics"]
    yield "Threads per evaluator", str(facts["threads"])
    for name, task in facts["tasks"].items():
        yield (
            f"Task {name}",
            f"{task['metric']}; {task['search']} items for the search, {task['held_out']} held out, "
            f"{task['calibrated']} excluded as calibration prompts"
            + (f", {task['truncated']} truncated" if task.get("truncated") else ""),
        )
    yield "Evaluations", f"{counts['evaluations']} of sets on slices of items"
    yield from run_facts(manifest)
