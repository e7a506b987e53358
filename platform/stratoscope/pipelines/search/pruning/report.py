"""The terminal summary and the report page of a search with target pruning."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.formatting import interval_text, model_facts, number_text, run_facts
from stratoscope.pipelines.search.pruning.figures import (
    curve_section,
    front_figure,
    layer_list,
    random_section,
    raster_section,
    score_label,
    speed_text,
)
from stratoscope.results import Manifest, Page, PageSection, Run, Table
from stratoscope.tables.pruning import ComparisonRow, FrontRow, PruningTrialRow, SpeedRow

PERCENT = ".1%"
SPEED_AXIS = "speed in forward passes, 1 for the whole model"


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
    sections = [
        PageSection("Verdict", facts["verdicts"], [], [_front_table(front)]),
        curve_section(finished, comparisons),
        *_size_sections(finished, front, facts),
        raster_section(finished, facts["num_layers"]),
        _task_section(comparisons),
    ]
    if facts.get("against_random", {}).get("random"):
        sections.append(random_section(facts["against_random"]))
    if facts.get("against_variance"):
        sections.insert(2, PageSection("AVSS compared with variance alone", facts["against_variance"]))
    if run.storage.exists("speed.parquet"):
        sections.append(_speed_section(SpeedRow.read(run.table("speed")), facts.get("exported", "")))
    sections.append(_trials_section(trials))
    return Page(
        title=f"Layers that {manifest.config['model']['source']} can do without",
        summary=(
            f"{len(trials)} trials by {manifest.config['search']['algorithm']} over {facts['num_layers']} layers, on "
            f"{', '.join(facts['tasks'])}. Layers are numbered from 0, as in model.layers."
        ),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _front_table(front: Sequence[FrontRow]) -> Table:
    header = [
        "",
        "layers dropped",
        "score",
        "retention, search",
        "retention, held out",
        "interval",
        "above chance",
        "speed",
    ]
    rows = [
        [
            "chosen" if row.chosen else "",
            layer_list(row),
            score_label(row),
            number_text(row.retention_raw, PERCENT),
            number_text(row.held_out_raw, PERCENT),
            interval_text(row.held_out_raw_low, row.held_out_raw_high, PERCENT),
            number_text(row.held_out_above_chance, PERCENT),
            speed_text(row),
        ]
        for row in front
    ]
    return Table(header, rows)


def _size_sections(
    trials: Sequence[PruningTrialRow], front: Sequence[FrontRow], facts: Mapping[str, Any]
) -> Iterator[PageSection]:
    if not trials:
        return
    yield PageSection(
        "Retention against speed and size",
        [
            "All finished trials and the front. Speed is that of forward passes over a batch, without the vocabulary "
            "head, against the whole model's: the median ratio of paired runs, with its range in tables. It depends on "
            "the dropped layers' number and kind alone."
        ],
        [
            *(
                [front_figure(trials, front, "speed", title=SPEED_AXIS, form=".2f", whole=1.0)]
                if trials[0].speed is not None
                else []
            ),
            front_figure(trials, front, "parameters", title="parameters", form=",.0f", whole=facts["parameters"]),
        ],
    )


def _task_section(comparisons: Sequence[ComparisonRow]) -> PageSection:
    tables = []
    for part in ("held_out", "search"):
        measure = f"measure ({part.replace('_', ' ')})"
        header = ["task", measure, "items", "chance", "before", "after", "raw", "above chance", "difference"]
        chosen = [row for row in comparisons if row.kind == "chosen" and row.part == part]
        tables.append(Table(header, [_task_cells(row) for row in chosen]))
    return PageSection(
        "The chosen set, task by task",
        [
            "Raw retention is after / before. Retention above chance subtracts the accuracy of guessing from both; it "
            "is left out where the whole model is not two standard errors above chance. Intervals are paired bootstrap "
            "over items. For language-model text, accuracy is that of the next token, beside bits per byte."
        ],
        [],
        tables,
    )


def _task_cells(row: ComparisonRow) -> list[str]:
    above_chance = "the whole model is not above chance"
    if row.above_chance is not None:
        interval = interval_text(row.above_chance_low, row.above_chance_high, PERCENT)
        above_chance = f"{number_text(row.above_chance, PERCENT)} ({interval})"
    difference = interval_text(row.difference_low, row.difference_high, "+.3f")
    return [
        row.task,
        row.metric,
        str(row.items),
        f"{row.chance:.3f}",
        f"{row.before:.3f}{_bits(row.bits_per_byte_before)}",
        f"{row.after:.3f}{_bits(row.bits_per_byte_after)}",
        f"{number_text(row.raw, PERCENT)} ({interval_text(row.raw_low, row.raw_high, PERCENT)})",
        above_chance,
        f"{difference}: within noise" if row.within_noise else difference,
    ]


def _speed_section(rows: Sequence[SpeedRow], checkpoint: str) -> PageSection:
    cells = [
        [
            row.what,
            f"{row.before:,.1f} {row.unit}",
            f"{row.after:,.1f} {row.unit}",
            f"{row.gain:.2f} ({row.gain_low:.2f} to {row.gain_high:.2f})",
        ]
        for row in rows
    ]
    return PageSection(
        "The exported checkpoint",
        [
            f"{checkpoint} was loaded in a fresh process by plain transformers. Its logits, and the tokens that it "
            "generates with the KV cache, are bit-identical to those of the pruned model. Times are medians of paired "
            "runs; the ratio is the median of their ratios with its range. The forward pass is the measure of speed of "
            "this page; decoding is the generation of one sequence, token by token."
        ],
        [],
        [Table(["", "original", "exported", "ratio"], cells)],
    )


def _trials_section(trials: Sequence[PruningTrialRow]) -> PageSection:
    rows = [
        [
            row.trial_id,
            row.origin,
            score_label(row),
            layer_list(row),
            number_text(row.retention_raw, PERCENT),
            interval_text(row.retention_raw_low, row.retention_raw_high, PERCENT),
            f"{row.share_of_items:.0%}",
            row.status if row.error is None else f"{row.status}: {row.error}",
        ]
        for row in trials
    ]
    header = ["trial", "origin", "score", "layers dropped", "retention", "interval", "of the items", "status"]
    return PageSection("All trials", [], [], [Table(header, rows)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts, counts = manifest.facts, manifest.counts
    yield from model_facts(manifest, facts["parameters"])
    yield "Statistics", facts["statistics"]
    yield "Threads per evaluator", str(facts["threads"])
    for name, task in facts["tasks"].items():
        yield (
            f"Task {name}",
            f"{task['metric']}; {task['search']} items for the search, {task['held_out']} held out, "
            f"{task['calibrated']} excluded as calibration prompts",
        )
    yield "Evaluations", f"{counts['evaluations']} of sets on slices of items"
    yield from run_facts(manifest)


def _bits(value: float | None) -> str:
    return "" if value is None else f", {value:.3f} bits per byte"
