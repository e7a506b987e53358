"""The summary and the report page of the scoring job."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.data_notes import prompt_counts
from stratoscope.pipelines.reporting.formatting import memory_text, model_facts, model_label, number_text, run_facts
from stratoscope.pipelines.score import figures, verdict
from stratoscope.pipelines.score.group_report import group_sections
from stratoscope.pipelines.score.load_statistics import StatisticsTables
from stratoscope.pipelines.score.read_scores import ScoredLayers, read_scorings
from stratoscope.results import Manifest, Page, PageSection, Run, Table
from stratoscope.scoring import num_dropped, sparsity
from stratoscope.statistics import Statistics


def summary_table(run: Run) -> TerminalTable:
    """Return the layers of every scoring, least important first, with a bar after the lowest share."""
    ratio = run.manifest.config["scores"]["ratio"]
    title = f"Layers, least important first; = joins ties, | ends the lowest {ratio:.0%}"
    table = TerminalTable(title=title, title_justify="left")
    for name in ("score", "layers", "split-half"):
        table.add_column(name, justify="right" if name == "split-half" else "left")
    for scoring in read_scorings(run):
        count = num_dropped(ratio, len(scoring.rank))
        table.add_row(scoring.label, scoring.listing(count), number_text(scoring.scoring.split_half, ".2f"))
    return table


def build_page(run: Run) -> Page:
    """Return the report page of a run."""
    manifest, scorings = run.manifest, list(read_scorings(run))
    ratio = manifest.config["scores"]["ratio"]
    merged = StatisticsTables.from_run(run).merged()
    source, prompts = manifest.config["model"]["source"], manifest.config["prompts"]["source"]
    model, main = model_label(source), verdict.main_scoring(scorings)
    return Page(
        title=verdict.title(manifest, main),
        summary=(
            f"{source} on {manifest.counts['scored']} prompts of {prompts} with {manifest.counts['tokens']:,} tokens. "
            f"{prompt_counts(manifest.facts)}. Layers are numbered from 0, as in model.layers."
        ),
        verdict=PageSection(
            "Verdict",
            [*verdict.warnings(manifest), *verdict.sentences(run, scorings)],
            [figures.scores(main, ratio, f"{model}: {main.name} by layer; filled: the lowest {ratio:.0%}")],
        ),
        sections=[
            *group_sections(run, scorings),
            _lowest_section(scorings, ratio, model),
            _score_section(scorings, main, manifest),
            _statistics_section(merged, model),
            _histogram_section(merged, model),
        ],
        facts=list(_facts(manifest)),
    )


def _lowest_section(scorings: Sequence[ScoredLayers], ratio: float, model: str) -> PageSection:
    num_layers = len(scorings[0].rank)
    count = num_dropped(ratio, num_layers)
    rows = [
        [
            scoring.label,
            scoring.lowest(count),
            number_text(float(scoring.normalized[scoring.rank < count].sum()), ".2g"),
            number_text(scoring.scoring.split_half, ".2f"),
        ]
        for scoring in scorings
    ]
    text = (
        f"For each score, the {count} least important of {num_layers} layers. Split-half is the rank correlation of "
        "the scores of two random halves of the prompts; where it is low, differences in rank mean little. The scores "
        "random and last are baselines. Layers are tied if their scores differ by less than the number format of the "
        "activations can resolve."
    )
    figure = figures.lowest_map(scorings, ratio, f"{model}: the lowest {count} layers of each score")
    table = Table(["score", "layers", "share of the sum", "split-half"], rows)
    return PageSection("All scores", [text], [figure], [table])


def _score_section(scorings: Sequence[ScoredLayers], main: ScoredLayers, manifest: Manifest) -> PageSection:
    drawn = [s for s in scorings if s.scoring.metric in ("avss", "block_influence", "angular_distance")] or scorings
    ratio, confidence = (manifest.config["scores"][name] for name in ("ratio", "confidence"))
    model = model_label(manifest.config["model"]["source"])
    text = (
        f"Bars are {confidence:.0%} bootstrap intervals over {_units(manifest)}. Coloured points are the lowest "
        f"{ratio:.0%}; they are filled where the interval overlaps that of no layer above them."
    )
    others = [s for s in drawn if s is not main]
    return PageSection("Scores by layer", [text], [figures.scores(s, ratio, f"{model}: {s.label}") for s in others])


def _statistics_section(merged: Mapping[str, Statistics], model: str) -> PageSection:
    variance = {tap: s.variance for tap, s in merged.items()}
    sparse = {
        f"{tap}, epsilon {epsilon:.3g}": sparsity(s.below[:, index], s.count)
        for tap, s in merged.items()
        for index, epsilon in enumerate(s.epsilons)
    }
    cosine = {"input to output": next(iter(merged.values())).cosine}
    return PageSection(
        "Statistics",
        [
            "Variance of all activations, their sparsity under each epsilon that was counted, and the cosine between a "
            "layer's input and output."
        ],
        [
            figures.by_layer(variance, "variance of activations", f"{model}: variance"),
            figures.by_layer(sparse, "share under epsilon", f"{model}: sparsity"),
            figures.by_layer(cosine, "cosine", f"{model}: cosine of input and output"),
        ],
    )


def _histogram_section(merged: Mapping[str, Statistics], model: str) -> PageSection:
    return PageSection(
        "Magnitudes",
        [
            "Distribution of activations over magnitudes. Each column is a layer, and the colour is the share of its "
            "activations in a bin of an eighth of an octave. Zeros and magnitudes outside 2^-40 to 2^24 are in the "
            "tables, but not in the figure."
        ],
        [figures.magnitudes(own, f"{model}, tap {tap}: magnitudes of activations") for tap, own in merged.items()],
    )


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts, counts = manifest.facts, manifest.counts
    yield from model_facts(manifest, facts["num_parameters"])
    yield "Rows", prompt_counts(facts)
    yield "Prompts", f"{counts['scored']} scored, {counts['errors']} errors, {counts['truncated']} truncated"
    padding = 1 - counts["tokens"] / max(counts["padded_tokens"], 1)
    yield (
        "Tokens",
        f"{counts['tokens']:,}, plus {padding:.1%} padding, {manifest.tokens_per_second or 0:,.0f} per second",
    )
    yield (
        "Shards",
        (
            f"{facts.get('num_shards', 0)}, of which the last start computed {counts['shards_computed']} and earlier "
            f"ones {counts['shards_skipped']}; {counts.get('shards_retried', 0)} needed another attempt"
        ),
    )
    yield "Non-finite activations", f"{counts['nonfinite']:,}"
    yield "Actors", f"at most {facts['most_actors']}, {facts['threads_per_actor']} threads each"
    yield "Peak memory of an actor", memory_text(manifest.peak_memory_bytes, manifest.peak_gpu_memory_bytes)
    yield from run_facts(manifest)


def _units(manifest: Manifest) -> str:
    """Return the sampling unit of the bootstrap."""
    return f"{manifest.facts['num_shards']} shards of prompts" if manifest.facts.get("by_shard") else "prompts"
