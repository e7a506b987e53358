"""What a mitigation run's page and terminal table show."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table as TerminalTable

from stratoscope.pipelines.mitigation import figures
from stratoscope.pipelines.reporting.formatting import model_facts, number_text, run_facts
from stratoscope.results import Manifest, Page, PageSection, Storage, Table, read_table

Row = dict[str, Any]


def summary_table(storage: Storage) -> TerminalTable:
    """Return each metric before and after, by variant, averaged over seeds."""
    rows = [row for row in read_table(storage, "evaluation").to_pylist() if row["variant"] != "base"]
    names = list(dict.fromkeys(row["variant"] for row in rows))
    table = TerminalTable(title="Before and after, on held-out items; means over seeds", title_justify="left")
    for name in ("data set", "metric", "items", "before", *names):
        table.add_column(name, justify="left" if name in ("data set", "metric") else "right")
    for dataset, metric in dict.fromkeys((row["dataset"], row["metric"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["metric"]) == (dataset, metric)]
        after = [_mean([row["after"] for row in own if row["variant"] == name]) for name in names]
        table.add_row(
            dataset, metric, str(own[0]["n"]), f"{own[0]['before']:.3f}", *(f"{value:.3f}" for value in after)
        )
    return table


def build_page(storage: Storage, manifest: Manifest) -> Page:
    """Compose the report of a run from its tables."""
    evaluation = [row for row in read_table(storage, "evaluation").to_pylist() if row["variant"] != "base"]
    facts, model = manifest.facts, manifest.config["model"]["source"]
    variants = read_table(storage, "variants").to_pylist()
    sections = [
        PageSection("Verdict", list(facts["verdicts"])),
        _change_section(evaluation, manifest.config["evaluation"]["confidence"], healing=facts["healing"]),
        _variant_section(variants),
    ]
    comparison = read_table(storage, "comparison").to_pylist()
    if comparison:
        sections.append(_comparison_section(comparison))
    separation = read_table(storage, "separation").to_pylist()
    if separation:
        sections.append(_separation_section(separation))
    sections.append(_training_section(read_table(storage, "training").to_pylist()))
    if storage.exists("tuning.parquet"):
        sections.append(_tuning_section(read_table(storage, "tuning").to_pylist()))
    sections.append(_table_section(evaluation))
    what = "healed after layers were dropped" if facts["healing"] else "mended in some of its layers"
    return Page(
        title=f"{model}, {what}",
        summary=(
            f"{len(variants)} trainings of {manifest.config['train']['max_steps']} steps each. Everything is judged on "
            "questions and texts that were neither trained on nor used to choose layers. Layers are numbered from 0, "
            "as in model.layers."
        ),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _change_section(rows: list[Row], confidence: float, *, healing: bool) -> PageSection:
    metrics = dict.fromkeys(row["metric"] for row in rows)
    drawn = [figures.changes([row for row in rows if row["metric"] == m], m, retention=healing) for m in metrics]
    what = "What is kept of the whole model, after / before" if healing else "What changed, after less before"
    text = f"{what}: one point for each seed, with paired {confidence:.0%} intervals over items."
    return PageSection("Before and after", [text], drawn)


def _variant_section(variants: list[Row]) -> PageSection:
    header = [
        "variant",
        "seed",
        "layers trained",
        "layers dropped",
        "trained numbers",
        "learning rate",
        "steps",
        "seconds",
        "peak memory of a worker",
    ]
    rows = [
        [
            v["variant"],
            str(v["seed"]),
            " ".join(map(str, v["layers"])),
            " ".join(map(str, v["dropped_layers"])) or "none",
            f"{v['trained_parameters']:,}",
            f"{v['learning_rate']:.3g}",
            f"{v['steps']}{', diverged' if v['diverged'] else ''}",
            f"{v['seconds']:.0f}",
            f"{v['peak_memory_bytes'] / 1e9:.1f} GB",
        ]
        for v in variants
    ]
    return PageSection("What was trained", [], [], [Table(header, rows)])


def _comparison_section(comparison: list[Row]) -> PageSection:
    header = [
        "variant",
        "other",
        "data set",
        "metric",
        "items",
        "seeds",
        "mean",
        "sd",
        "other's",
        "sd",
        "less other",
        "interval",
        "by other's",
        "p, corrected",
    ]
    rows = [
        [
            c["variant"],
            c["other"],
            c["dataset"] or "all, mean",
            c["metric"],
            str(c["n"]),
            str(c["seeds"]),
            f"{c['mean']:.3f}",
            number_text(c["spread"], ".3f"),
            f"{c['other_mean']:.3f}",
            number_text(c["other_spread"], ".3f"),
            f"{c['difference']:+.3f}",
            f"{c['ci_low']:+.3f} to {c['ci_high']:+.3f}",
            f"{c['relative']:+.1%}",
            f"{c['p_holm']:.2g}",
        ]
        for c in comparison
    ]
    return PageSection(
        "Variants against the base and each other",
        [
            "Each variant is the mean over its seeds; sd is the standard deviation over them. Intervals and p-values "
            "are of a paired bootstrap over items, and do not hold what another seed would change; p is corrected, by "
            "Holm's method, for the data sets of a metric being tested together."
        ],
        [],
        [Table(header, rows)],
    )


def _separation_section(rows: list[Row]) -> PageSection:
    return PageSection(
        "Right and wrong answers inside the model",
        [
            "How much closer, by the cosine, the end of a question is to its right answer than to its wrong ones, in "
            "each layer, on the mean over held-out questions; states are standardised by the base's. Above 0 a layer "
            "puts the right answer closer."
        ],
        [figures.separation(rows, name) for name in dict.fromkeys(row["dataset"] for row in rows)],
    )


def _training_section(rows: list[Row]) -> PageSection:
    return PageSection(
        "Training",
        ["The loss and its terms by step, one line for each training."],
        [figures.training(rows)],
    )


def _tuning_section(rows: list[Row]) -> PageSection:
    names = [
        n
        for n in ("learning_rate", "temperature", "contrastive", "forgetting", "num_layers")
        if any(r[n] is not None for r in rows)
    ]
    header = ["variant", "trial", *names, "reports", "objective", "chosen", "status"]
    table = [
        [
            r["variant"],
            r["trial_id"],
            *("" if r[n] is None else f"{r[n]:g}" for n in names),
            str(r["reports"]),
            "" if r["objective"] is None else f"{r['objective']:.4f}",
            "yes" if r["chosen"] else "",
            r["error"] or r["status"],
        ]
        for r in rows
    ]
    return PageSection(
        "Search",
        ["Judged on questions or texts apart from all others. Fewer reports mean that ASHA stopped the trial."],
        [],
        [Table(header, table)],
    )


def _table_section(rows: list[Row]) -> PageSection:
    header = [
        "variant",
        "seed",
        "data set",
        "metric",
        "items",
        "before",
        "after",
        "difference",
        "interval",
        "after / before",
    ]
    table = [
        [
            r["variant"],
            str(r["seed"]),
            r["dataset"],
            r["metric"],
            str(r["n"]),
            f"{r['before']:.3f}",
            f"{r['after']:.3f}",
            f"{r['difference']:+.3f}",
            f"{r['ci_low']:+.3f} to {r['ci_high']:+.3f}",
            f"{r['retention']:.1%}",
        ]
        for r in rows
    ]
    return PageSection("All numbers", [], [], [Table(header, table)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts = manifest.facts
    yield from model_facts(manifest, facts["num_parameters"])
    for name, counts in facts["questions"].items():
        yield (
            f"Data set {name}",
            f"{counts['trained']} questions trained on, {counts['held_out']} held out"
            + (f", {counts['validated']} for the search" if counts["validated"] else ""),
        )
    yield "Texts", f"{facts['texts']:,} trained on"
    yield "Terms", ", ".join(f"{weight:g} {name}" for name, weight in facts["terms"].items())
    yield "Layers from", facts["flags"] or "the configuration"
    yield (
        "Workers",
        f"{facts['workers']}, {facts['threads_per_worker']} threads each, ZeRO {manifest.config['train']['zero']}",
    )
    yield "Tensors that stayed equal to the bit", str(facts["frozen_tensors"])
    yield from run_facts(manifest)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
