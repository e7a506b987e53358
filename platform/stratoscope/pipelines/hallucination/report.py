"""What the hallucination job shows: flagged layers in the terminal, and the report page."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table as TerminalTable

from stratoscope.pipelines.hallucination import figures
from stratoscope.pipelines.reporting.formatting import model_facts, number_text, run_facts
from stratoscope.results import Manifest, Page, PageSection, Storage, Table, read_table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Row = dict[str, Any]
OURS = (
    "The formulas of EAVSS could not be recovered from its paper; the definitions here are ours. Of the log-ratio "
    "definition, HSAV is the mean over questions of log(variance wrong / variance right), HSS of log(sparsity right / "
    "sparsity wrong), and EAVSS their sum: how much more AVSS a layer has when the answer is wrong."
)


def first_rows(storage: Storage) -> list[Row]:
    """Return the scores that layers are flagged by: those of the first definition and view."""
    rows = read_table(storage, "hallucination_scores").to_pylist()
    names = ("part", "definition", "variance", "epsilon_kind")
    first = {name: rows[0][name] for name in names}
    chosen = [row for row in rows if all(row[name] == value for name, value in first.items())]
    epsilon = {row["tap"]: row["epsilon"] for row in reversed(chosen)}
    return [row for row in chosen if row["epsilon"] == epsilon[row["tap"]]]


def summary_table(storage: Storage, manifest: Manifest) -> TerminalTable:
    """Return the flagged layers of each data set and tap, and how well they tell wrong answers from right ones."""
    definition = manifest.config["contrasts"]["definitions"][0]
    table = TerminalTable(title=f"Layers flagged by {definition}; AUROC on held-out questions", title_justify="left")
    for name in ("data set", "tap", "flagged layers", "flagged", "random sets", "all layers", "length", "likelihood"):
        table.add_column(name, justify="left" if name in ("data set", "tap", "flagged layers") else "right")
    rows = first_rows(storage)
    separation = read_table(storage, "separation").to_pylist()
    for dataset, tap in dict.fromkeys((row["dataset"], row["tap"]) for row in rows):
        flagged = [str(r["layer"]) for r in rows if (r["dataset"], r["tap"]) == (dataset, tap) and r["flagged"]]
        found = {r["features"]: r["auroc"] for r in separation if r["dataset"] == dataset and r["tap"] in (tap, None)}
        names = ("flagged", "random", "all", "answer_length", "likelihood")
        table.add_row(dataset, tap, " ".join(flagged) or "none", *(f"{found[name]:.3f}" for name in names))
    return table


def build_page(storage: Storage, manifest: Manifest) -> Page:
    """Compose the report of a run from its tables."""
    rows = first_rows(storage)
    separation = read_table(storage, "separation").to_pylist()
    random = read_table(storage, "random_sets").to_pylist()
    agreement = read_table(storage, "agreement").to_pylist()
    datasets = [dataset["name"] for dataset in manifest.facts["datasets"]]
    model, counts = manifest.config["model"]["source"], manifest.counts
    sections = [
        PageSection("Verdict", [*manifest.facts["verdicts"], OURS]),
        _propensity_section(rows, manifest),
        _heat_section(rows),
        _separation_section(rows, separation, random, manifest),
    ]
    if agreement:
        sections.append(_agreement_section(agreement))
    if storage.exists("rates.parquet"):
        sections.append(_rate_section(read_table(storage, "rates").to_pylist(), manifest))
    sections.append(_all_section(storage))
    return Page(
        title=f"Which layers of {model} tell wrong answers from right ones",
        summary=(
            f"{counts['scored']} questions of {', '.join(datasets)} with {counts['answers']} answers through "
            f"{manifest.facts['num_layers']} layers. Layers are numbered from 0, as in model.layers."
        ),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _propensity_section(rows: list[Row], manifest: Manifest) -> PageSection:
    contrasts = manifest.config["contrasts"]
    drawn: list[Figure] = []
    for dataset, tap in dict.fromkeys((row["dataset"], row["tap"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["tap"]) == (dataset, tap)]
        drawn.append(figures.propensity(own, f"{dataset}, {tap}: {contrasts['definitions'][0]}"))
    return PageSection(
        "Layers",
        [
            f"EAVSS by layer with simultaneous {1 - contrasts['level']:.0%} intervals over all layers and taps of a "
            "data set. Above 0, wrong answers have more AVSS, below 0 less. The grey band is where all layers stay in "
            "most randomisations. Filled points are flagged: what is left after the length of answers is adjusted for "
            f"cannot be chance at {contrasts['level']:.0%}, and |EAVSS| exceeds {contrasts['threshold']:g} times its "
            "mean over layers, the propensity."
        ],
        drawn,
    )


def _heat_section(rows: list[Row]) -> PageSection:
    taps = list(dict.fromkeys(row["tap"] for row in rows))
    return PageSection(
        "Layers by data sets",
        ["EAVSS with its sign, in multiples of its mean size over layers. A point marks a flagged layer."],
        [figures.heat_map([row for row in rows if row["tap"] == tap], tap) for tap in taps],
    )


def _separation_section(rows: list[Row], separation: list[Row], random: list[Row], manifest: Manifest) -> PageSection:
    section = manifest.config["separation"]
    drawn: list[Figure] = []
    for dataset, tap in dict.fromkeys((row["dataset"], row["tap"]) for row in rows):
        own = [r for r in separation if r["dataset"] == dataset and r["tap"] in (tap, None)]
        sets = [r["auroc"] for r in random if (r["dataset"], r["tap"]) == (dataset, tap)]
        drawn.append(figures.separation(own, sets, f"{dataset}, {tap}"))
    header = ["data set", "tap", "features", "layers", "AUROC", "interval", "less random", "interval", "could show"]
    table = [
        [
            r["dataset"],
            r["tap"] or "",
            r["features"],
            "" if r["num_layers"] is None else f"{r['num_layers']:.3g}",
            f"{r['auroc']:.3f}",
            f"{r['ci_low']:.3f} to {r['ci_high']:.3f}",
            number_text(r["over_random"], "+.3f"),
            "" if r["over_random"] is None else f"{r['over_random_low']:+.3f} to {r['over_random_high']:+.3f}",
            number_text(r["detectable"], ".3f"),
        ]
        for r in separation
        if r["features"] != "layer"
    ]
    return PageSection(
        "Telling wrong answers from right ones",
        [
            "Area under the ROC curve of a regularised logistic regression on log variance and log sparsity, on "
            f"questions held out in {section['folds']} folds. Layers are flagged inside each fold's training questions."
            f" Random: the mean over {section['random_sets']} random sets of as many layers, whose spread is the "
            "histogram. avss: as many layers, those of the highest AVSS. 'Could show' is the difference to random sets "
            "that data of this size would find in four of five cases.",
        ],
        drawn,
        [Table(header, table)],
    )


def _agreement_section(agreement: list[Row]) -> PageSection:
    header = ["tap", "data set", "and", "rank correlation of EAVSS", "same sign", "flagged by both"]
    rows = [
        [
            r["tap"],
            r["dataset"],
            r["other"],
            number_text(r["rank_correlation"], "+.2f"),
            f"{r['same_sign']:.0%}",
            str(r["flagged_by_both"]),
        ]
        for r in agreement
    ]
    return PageSection("Do data sets agree?", ["Over layers, for each pair of data sets."], [], [Table(header, rows)])


def _rate_section(rates: list[Row], manifest: Manifest) -> PageSection:
    confidence = manifest.config["separation"]["confidence"]
    rows = [
        [
            r["dataset"],
            str(r["answered"]),
            str(r["wrong"]),
            "" if r["rate"] is None else f"{r['rate']:.1%}",
            "" if r["rate"] is None else f"{r['ci_low']:.1%} to {r['ci_high']:.1%}",
        ]
        for r in rates
    ]
    return PageSection(
        "Hallucination rate",
        [
            "How often the model's own greedy answer equals none of the right ones, leaving out case, punctuation and "
            f"articles; with Wilson's {confidence:.0%} interval. An answer without a word counts as neither."
        ],
        [],
        [Table(["data set", "answered", "wrong", "rate", "interval"], rows)],
    )


def _all_section(storage: Storage) -> PageSection:
    rows = read_table(storage, "hallucination_scores").to_pylist()
    names = ("dataset", "tap", "part", "definition", "variance", "epsilon_kind", "epsilon")
    flagged: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        layers = flagged.setdefault(tuple(row[name] for name in names), [])
        if row["flagged"]:
            layers.append(str(row["layer"]))
    header = ["data set", "tap", "part", "definition", "variance", "threshold", "epsilon", "flagged layers"]
    table = [[*map(str, key[:-1]), f"{key[-1]:.3g}", " ".join(layers) or "none"] for key, layers in flagged.items()]
    return PageSection("All definitions", [], [], [Table(header, table)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts, counts = manifest.facts, manifest.counts
    yield from model_facts(manifest, facts["num_parameters"])
    for d in facts["datasets"]:
        yield (
            f"Data set {d['name']}",
            f"{d['kept']} questions of {d['read']} in format {d['format']}; {d['unusable']} without usable answers,"
            f" {d['duplicates']} were duplicates; wrong answers: {d['wrong_origin']}",
        )
    yield "Questions", f"{counts['scored']} read, {counts['errors']} errors"
    yield "Answers", f"{counts['answers']}: {manifest.config['pairs']['answers']}"
    yield "Tokens", f"{counts['tokens']:,}, {manifest.tokens_per_second or 0:,.0f} per second"
    yield "Shards", f"{facts['num_shards']}, of which {counts['shards_computed']} were computed by the last start"
    yield "Activations not finite", f"{counts['nonfinite']:,}"
    yield "Actors", f"at most {facts['most_actors']}, {facts['threads_per_actor']} threads each"
    yield "Peak memory of an actor", f"{(manifest.peak_memory_bytes or 0) / 1e9:.2f} GB"
    yield from run_facts(manifest)
