"""The summary and the report page of the hallucination job."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table as TerminalTable

from stratoscope.pipelines.hallucination import figures, verdict
from stratoscope.pipelines.reporting.data_notes import question_counts
from stratoscope.pipelines.reporting.formatting import memory_text, model_facts, model_label, number_text, run_facts
from stratoscope.results import Manifest, Page, PageSection, Run, Table
from stratoscope.tables.hallucination import (
    AgreementRow,
    HallucinationScoreRow,
    RandomSetRow,
    RateRow,
    SeparationRow,
    main_scores,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

OURS = (
    "The formulas of EAVSS could not be recovered from its paper; the definitions here are ours. In the log-ratio "
    "definition, HSAV is the mean over questions of log(variance wrong / variance right), HSS that of log(sparsity "
    "right / sparsity wrong), and EAVSS is their sum: how much more AVSS a layer has when the answer is wrong."
)


def summary_table(run: Run) -> TerminalTable:
    """Return the flagged layers of each data set and tap, and how well they separate wrong answers from right ones."""
    definition = run.manifest.config["contrasts"]["definitions"][0]
    table = TerminalTable(title=f"Layers flagged by {definition}; AUROC on held-out questions", title_justify="left")
    for name in ("data set", "tap", "flagged layers", "flagged", "random sets", "all layers", "length", "likelihood"):
        table.add_column(name, justify="left" if name in ("data set", "tap", "flagged layers") else "right")
    separation = SeparationRow.read(run.table("separation"))
    for (dataset, tap), rows in _by_tap(main_scores(_read_scores(run))).items():
        flagged = [str(row.layer) for row in rows if row.flagged]
        auroc = {row.features: row.auroc for row in separation if row.dataset == dataset and row.tap in (tap, None)}
        names = ("flagged", "random", "all", "answer_length", "likelihood")
        table.add_row(dataset, tap, " ".join(flagged) or "none", *(f"{auroc[name]:.3f}" for name in names))
    return table


def _read_scores(run: Run) -> list[HallucinationScoreRow]:
    return HallucinationScoreRow.read(run.table("hallucination_scores"))


def _by_tap(rows: Sequence[HallucinationScoreRow]) -> dict[tuple[str, str], list[HallucinationScoreRow]]:
    """Return the rows of each data set and tap, in order of layers."""
    by_tap: dict[tuple[str, str], list[HallucinationScoreRow]] = {}
    for row in rows:
        by_tap.setdefault((row.dataset, row.tap), []).append(row)
    return by_tap


def build_page(run: Run) -> Page:
    """Return the report page of a run."""
    manifest, scores = run.manifest, _read_scores(run)
    rows = main_scores(scores)
    separation = SeparationRow.read(run.table("separation"))
    random = RandomSetRow.read(run.table("random_sets"))
    agreement = AgreementRow.read(run.table("agreement"))
    source, counts = manifest.config["model"]["source"], manifest.counts
    sections = [
        PageSection("Verdicts in words", [*manifest.facts["verdicts"], OURS]),
        _layers_section(rows, manifest),
        _separation_section(rows, separation, random, manifest),
    ]
    if agreement:
        sections.append(_agreement_section(agreement))
    if run.storage.exists("rates.parquet"):
        sections.append(_rate_section(RateRow.read(run.table("rates")), manifest))
    sections.append(_all_section(scores))
    datasets = ", ".join(dataset["name"] for dataset in manifest.facts["datasets"])
    return Page(
        title=verdict.title(manifest, rows),
        summary=" ".join(
            [
                f"{source}: {counts['scored']} questions of {datasets} with {counts['answers']} answers through "
                f"{manifest.facts['num_layers']} layers. Layers are numbered from 0, as in model.layers.",
                *(f"{d['name']}: {question_counts(d)}." for d in manifest.facts["datasets"]),
            ]
        ),
        verdict=PageSection(
            "Verdict",
            [*verdict.warnings(manifest), *verdict.sentences(manifest, rows, separation)],
            [_picture(rows, model_label(source))],
        ),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _picture(rows: Sequence[HallucinationScoreRow], model: str) -> "Figure":
    """Return the figure of the verdict: EAVSS of a single data set and tap, or the map of all."""
    by_tap = _by_tap(rows)
    if len(by_tap) == 1:
        (dataset, tap), _ = next(iter(by_tap.items()))
        return figures.propensity(rows, f"{model}: EAVSS in {dataset}, tap {tap}; coloured: flagged layers")
    return figures.heat_map(
        rows, f"{model}: flagged layers; orange: wrong answers have more AVSS, blue: less, grey: not flagged"
    )


def _layers_section(rows: Sequence[HallucinationScoreRow], manifest: Manifest) -> PageSection:
    contrasts = manifest.config["contrasts"]
    model = model_label(manifest.config["model"]["source"])
    drawn: list[Figure] = [
        figures.propensity(of_tap, f"{model}: EAVSS ({contrasts['definitions'][0]}) in {dataset}, tap {tap}")
        for (dataset, tap), of_tap in _by_tap(rows).items()
    ]
    return PageSection(
        "Layers",
        [
            f"EAVSS by layer with simultaneous {1 - contrasts['level']:.0%} intervals over all layers and taps of a "
            "data set. Above 0, wrong answers have more AVSS, below 0 less. In most randomisations, all layers stay "
            "within the grey band. Coloured diamonds are flagged: their contrast, adjusted for the length of answers, "
            f"is significant at {contrasts['level']:.0%}, and their propensity, |EAVSS| divided by its mean over "
            f"layers, exceeds {contrasts['threshold']:g}."
        ],
        drawn,
    )


def _separation_section(
    rows: Sequence[HallucinationScoreRow],
    separation: Sequence[SeparationRow],
    random: Sequence[RandomSetRow],
    manifest: Manifest,
) -> PageSection:
    section = manifest.config["separation"]
    model = model_label(manifest.config["model"]["source"])
    drawn: list[Figure] = []
    for dataset, tap in _by_tap(rows):
        of_tap = [row for row in separation if row.dataset == dataset and row.tap in (tap, None)]
        aurocs = [row.auroc for row in random if (row.dataset, row.tap) == (dataset, tap)]
        place = f"{dataset}, tap {tap}"
        drawn.append(figures.separation(of_tap, aurocs, f"{model}: wrong from right answers of {place}"))
        if single := [row for row in of_tap if row.features == "layer"]:
            drawn.append(figures.layer_aurocs(single, f"{model}: each layer alone, {place}"))
    header = ["data set", "tap", "features", "layers", "AUROC", "interval", "less random", "interval", "could show"]
    table = [
        [
            r.dataset,
            r.tap or "",
            r.features,
            "" if r.num_layers is None else f"{r.num_layers:.3g}",
            f"{r.auroc:.3f}",
            f"{r.ci_low:.3f} to {r.ci_high:.3f}",
            number_text(r.over_random, "+.3f"),
            "" if r.over_random is None else f"{r.over_random_low:+.3f} to {r.over_random_high:+.3f}",
            number_text(r.detectable, ".3f"),
        ]
        for r in separation
        if r.features != "layer"
    ]
    return PageSection(
        "Separation of wrong answers from right ones",
        [
            "AUROC of a regularised logistic regression on log variance and log sparsity, on "
            f"questions held out in {section['folds']} folds. Layers are flagged inside each fold's training questions."
            f" random: the mean over {section['random_sets']} random sets of as many layers, each of which is a "
            "short line. avss: as many layers, those with the highest AVSS. 'Could show' is the difference to random "
            "sets that data of this size detects in four of five cases.",
        ],
        drawn,
        [Table(header, table)],
    )


def _agreement_section(agreement: Sequence[AgreementRow]) -> PageSection:
    header = ["tap", "data set", "and", "rank correlation of EAVSS", "same sign", "flagged by both"]
    rows = [
        [
            r.tap,
            r.dataset,
            r.other,
            number_text(r.rank_correlation, "+.2f"),
            f"{r.same_sign:.0%}",
            str(r.flagged_by_both),
        ]
        for r in agreement
    ]
    return PageSection(
        "Agreement of data sets", ["Over layers, for each pair of data sets."], [], [Table(header, rows)]
    )


def _rate_section(rates: Sequence[RateRow], manifest: Manifest) -> PageSection:
    confidence = manifest.config["separation"]["confidence"]
    rows = [
        [
            r.dataset,
            str(r.answered),
            str(r.wrong),
            "" if r.rate is None else f"{r.rate:.1%}",
            "" if r.rate is None else f"{r.ci_low:.1%} to {r.ci_high:.1%}",
        ]
        for r in rates
    ]
    return PageSection(
        "Hallucination rate",
        [
            "Share of questions for which the model's own greedy answer equals none of the right ones, ignoring case, "
            f"punctuation and articles; with Wilson's {confidence:.0%} interval. An answer without a word counts as "
            "neither right nor wrong."
        ],
        [],
        [Table(["data set", "answered", "wrong", "rate", "interval"], rows)],
    )


def _all_section(rows: Sequence[HallucinationScoreRow]) -> PageSection:
    by_scoring: dict[tuple[str | float, ...], list[HallucinationScoreRow]] = {}
    for row in rows:
        by_scoring.setdefault(row.scoring, []).append(row)
    header = ["data set", "tap", "part", "definition", "variance", "threshold", "epsilon", "flagged layers"]
    table = [
        [r.dataset, r.tap, r.part, r.definition, r.variance, r.epsilon_kind, number_text(r.epsilon, ".3g"), layers]
        for r, layers in (
            (rows[0], " ".join(str(row.layer) for row in rows if row.flagged) or "none") for rows in by_scoring.values()
        )
    ]
    return PageSection("All definitions", [], [], [Table(header, table)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts, counts = manifest.facts, manifest.counts
    yield from model_facts(manifest, facts["num_parameters"])
    for d in facts["datasets"]:
        yield (
            f"Data set {d['name']}",
            f"{question_counts(d)}; format {d['format']}; wrong answers: {d['wrong_origin']}",
        )
    yield "Questions", f"{counts['scored']} read, {counts['errors']} errors"
    yield "Answers", f"{counts['answers']}: {manifest.config['pairs']['answers']}"
    yield "Tokens", f"{counts['tokens']:,}, {manifest.tokens_per_second or 0:,.0f} per second"
    yield "Shards", f"{facts['num_shards']}, of which the last start computed {counts['shards_computed']}"
    yield "Non-finite activations", f"{counts['nonfinite']:,}"
    yield "Actors", f"at most {facts['most_actors']}, {facts['threads_per_actor']} threads each"
    yield "Peak memory of an actor", memory_text(manifest.peak_memory_bytes, manifest.peak_gpu_memory_bytes)
    yield from run_facts(manifest)
