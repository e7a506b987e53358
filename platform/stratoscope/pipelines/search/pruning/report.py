"""What the search job shows: the front in the terminal, and the report page."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.formatting import model_facts, run_facts
from stratoscope.pipelines.search.pruning.figures import (
    Row,
    curve_section,
    front_figure,
    interval,
    label,
    layers,
    percent,
    random_section,
    raster_section,
)
from stratoscope.results import Manifest, Page, PageSection, Storage, Table, read_table


def summary_table(storage: Storage, manifest: Manifest) -> TerminalTable:
    """Return the front: what each set drops and what it keeps."""
    table = TerminalTable(title="Pareto front, retention on held-out items; * is the chosen set", title_justify="left")
    for name in ("", "layers dropped", "by", "retention", "interval", "million parameters"):
        table.add_column(name, justify="right" if name in ("retention", "million parameters") else "left")
    for row in read_table(storage, "front").to_pylist():
        table.add_row(
            "*" if row["chosen"] else "",
            layers(row),
            label(row),
            percent(row["held_out_raw"]),
            interval(row, "held_out_raw"),
            f"{row['parameters'] / 1e6:,.1f}",
        )
    table.caption = f"the whole model has {manifest.facts['parameters'] / 1e6:,.1f} million parameters"
    return table


def build_page(storage: Storage, manifest: Manifest) -> Page:
    """Compose the report of a run from its tables."""
    trials = read_table(storage, "trials").to_pylist()
    front = read_table(storage, "front").to_pylist()
    compared = read_table(storage, "comparison").to_pylist()
    done = [row for row in trials if row["status"] == "done" and row["retention_raw"] is not None]
    model, facts = manifest.config["model"]["source"], manifest.facts
    sections = [
        PageSection("Verdict", facts["verdicts"], [], [_front_table(front)]),
        curve_section(done, compared),
        *_size_sections(done, front, facts),
        raster_section(done, facts["num_layers"]),
        _task_section(compared),
    ]
    if "against_random" in facts:
        sections.append(random_section(facts["against_random"]))
    if facts["against_variance"]:
        sections.insert(2, PageSection("Does sparsity add anything to variance?", facts["against_variance"]))
    if storage.exists("speed.parquet"):
        sections.append(_speed_section(read_table(storage, "speed").to_pylist(), facts))
    sections.append(_trials_section(trials))
    return Page(
        title=f"What {model} can do without",
        summary=(
            f"{len(trials)} trials by {manifest.config['search']['algorithm']} over {facts['num_layers']} layers, on "
            f"{', '.join(facts['tasks'])}. Layers are numbered from 0, as in model.layers."
        ),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _front_table(front: list[Row]) -> Table:
    header = ["", "layers dropped", "by", "retention, search", "retention, held out", "interval", "above chance"]
    rows = [
        [
            "chosen" if row["chosen"] else "",
            layers(row),
            label(row),
            percent(row["retention_raw"]),
            percent(row["held_out_raw"]),
            interval(row, "held_out_raw"),
            percent(row["held_out_above_chance"]),
        ]
        for row in front
    ]
    return Table(header, rows)


def _size_sections(done: list[Row], front: list[Row], facts: dict[str, Any]) -> Iterator[PageSection]:
    if not done:
        return
    yield PageSection(
        "Retention against speed and size",
        [
            "Every finished trial, and the front. Speed is that of a forward pass over a batch without the vocabulary "
            "head, the median of several; all sets of one size are as fast as each other."
        ],
        [
            front_figure(done, front, facts, "tokens_per_s", "tokens/s"),
            front_figure(done, front, facts, "parameters", "parameters"),
        ],
    )


def _task_section(compared: list[Row]) -> PageSection:
    header = ["task", "measure", "items", "chance", "before", "after", "raw", "above chance", "difference"]
    tables = []
    for part in ("held_out", "search"):
        rows = [row for row in compared if row["kind"] == "chosen" and row["part"] == part]
        tables.append(
            Table(
                [*header[:1], f"measure ({part.replace('_', ' ')})", *header[2:]],
                [
                    [
                        row["task"],
                        row["metric"],
                        str(row["items"]),
                        f"{row['chance']:.3f}",
                        f"{row['before']:.3f}{_bits(row['bits_per_byte_before'])}",
                        f"{row['after']:.3f}{_bits(row['bits_per_byte_after'])}",
                        f"{percent(row['raw'])} ({interval(row, 'raw')})",
                        _above(row),
                        _difference(row),
                    ]
                    for row in rows
                ],
            )
        )
    return PageSection(
        "The chosen set, task by task",
        [
            "Raw retention is after / before; above chance it is counted from what guessing gets right, and left out "
            "where the whole model is not two standard errors above that. Intervals are paired bootstrap over items. "
            "Of language-model text the accuracy is that of the next token, and bits per byte stand beside it."
        ],
        [],
        tables,
    )


def _speed_section(pairs: list[Row], facts: dict[str, Any]) -> PageSection:
    rows = [
        [
            row["what"],
            f"{row['before']:,.1f} {row['unit']}",
            f"{row['after']:,.1f} {row['unit']}",
            f"{row['gain']:.2f} ({row['gain_low']:.2f} to {row['gain_high']:.2f})",
        ]
        for row in pairs
    ]
    return PageSection(
        "The exported checkpoint",
        [
            f"{facts.get('exported', '')} was loaded in a fresh process by plain transformers: its logits, and what it "
            "generates with the KV cache, are those of the pruned model to the bit. Times are medians of runs in "
            "pairs, the gain is the median of their ratios with its range."
        ],
        [],
        [Table(["", "original", "exported", "times as fast"], rows)],
    )


def _trials_section(trials: list[Row]) -> PageSection:
    rows = [
        [
            row["trial_id"],
            row["origin"],
            label(row),
            layers(row),
            percent(row["retention_raw"]),
            interval(row, "retention_raw"),
            f"{row['share_of_items']:.0%}",
            row["status"] if row["error"] is None else f"{row['status']}: {row['error']}",
        ]
        for row in trials
    ]
    header = ["trial", "origin", "score", "layers dropped", "retention", "interval", "of the items", "status"]
    return PageSection("All trials", [], [], [Table(header, rows)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts, counts = manifest.facts, manifest.counts
    yield from model_facts(manifest, facts["parameters"])
    yield "Statistics", facts["statistics"]
    yield "Threads of an evaluator", str(facts["threads"])
    for name, task in facts["tasks"].items():
        yield (
            f"Task {name}",
            f"{task['metric']}; {task['search']} items for the search, {task['held_out']} held out, "
            f"{task['calibrated']} left out for having been calibrated on",
        )
    yield "Evaluations", f"{counts['evaluations']} of sets on slices of items, each kept when it is done"
    yield from run_facts(manifest)


def _above(row: Row) -> str:
    if row["above_chance"] is None:
        return "the whole model is not above chance"
    return f"{percent(row['above_chance'])} ({interval(row, 'above_chance')})"


def _difference(row: Row) -> str:
    text = f"{row['difference_low']:+.3f} to {row['difference_high']:+.3f}"
    return f"{text}: within noise" if row["within_noise"] else text


def _bits(value: float | None) -> str:
    return "" if value is None else f", {value:.3f} bits per byte"
