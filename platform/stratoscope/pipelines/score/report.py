"""The summary and the report page of the scoring job."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as TerminalTable

from stratoscope.pipelines.reporting.data_notes import nonfinite_notes, prompt_counts
from stratoscope.pipelines.reporting.formatting import model_facts, number_text, run_facts
from stratoscope.pipelines.score.group_report import group_sections
from stratoscope.pipelines.score.load_statistics import StatisticsTables
from stratoscope.pipelines.score.read_scores import ScoredLayers, read_scorings
from stratoscope.results import COLOURS, SYMBOLS, Manifest, Page, PageSection, Run, Table, style
from stratoscope.scoring import num_dropped, sparsity
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import FIRST_REGULAR, NUM_REGULAR, OVERFLOW, lower_edges

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


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
    model, prompts = manifest.config["model"]["source"], manifest.config["prompts"]["source"]
    return Page(
        title=f"Layers of {model} on {prompts}",
        summary=" ".join(
            [
                *nonfinite_notes(manifest),
                f"{manifest.counts['scored']} prompts with {manifest.counts['tokens']:,} tokens through "
                f"{manifest.facts['num_layers']} layers. Layers are numbered from 0, as in model.layers. "
                f"{prompt_counts(manifest.facts)}.",
            ]
        ),
        sections=[
            _lowest_section(scorings, ratio),
            *group_sections(run, scorings),
            _score_section(scorings, ratio, manifest),
            _statistics_section(merged),
            _histogram_section(merged),
        ],
        facts=list(_facts(manifest)),
    )


def _lowest_section(scorings: list[ScoredLayers], ratio: float) -> PageSection:
    from plotly.graph_objects import Figure, Heatmap

    num_layers = len(scorings[0].rank)
    count = num_dropped(ratio, num_layers)
    ranks = np.array([scoring.rank for scoring in scorings])
    shade = np.where(ranks < count, 1.0, 0.0) + 0.001 * (num_layers - ranks)
    figure = Figure(
        Heatmap(
            z=shade,
            y=[scoring.label for scoring in scorings],
            x=list(range(num_layers)),
            customdata=ranks,
            hovertemplate="%{y}<br>layer %{x}: rank %{customdata}<extra></extra>",
            colorscale=[[0, "#f1f4f7"], [0.4, "#dce5ec"], [0.5, COLOURS[0]], [1, COLOURS[0]]],
            showscale=False,
            xgap=2,
            ygap=4,
        )
    )
    style(figure, "layer", "", height=110 + 34 * len(scorings), by_layer=True)
    figure.update_yaxes(autorange="reversed")
    rows = [
        [
            scoring.label,
            scoring.lowest(count),
            number_text(float(scoring.normalized[scoring.rank < count].sum()), ".2g"),
            number_text(scoring.scoring.split_half, ".2f"),
        ]
        for scoring in scorings
    ]
    return PageSection(
        f"The lowest {ratio:.0%}",
        [
            f"For each score, the {count} least important of {num_layers} layers. A score does not predict what the "
            "model loses without a layer: only an evaluation of the pruned model measures that. Split-half is the "
            "rank correlation of the scores of two random halves of the prompts; where it is low, differences in rank "
            "mean little. The scores random and last are baselines. Layers are tied if their scores differ by less "
            "than the number format of the activations can resolve.",
        ],
        [figure],
        [Table(["score", "layers", "share of the sum", "split-half"], rows)],
    )


def _score_section(scorings: list[ScoredLayers], ratio: float, manifest: Manifest) -> PageSection:
    drawn = [s for s in scorings if s.scoring.metric in ("avss", "block_influence", "angular_distance")] or scorings
    confidence = manifest.config["scores"]["confidence"]
    paragraphs = [
        f"Bars are {confidence:.0%} bootstrap intervals over {_units(manifest)}; filled points are the lowest "
        f"{ratio:.0%}. The scale is logarithmic."
    ]
    never = manifest.counts.get("layers_never_sparse", 0)
    if never:
        paragraphs.append(
            f"Up to {never} layers of a tap have no activation under epsilon. Their sparsity is the half count of its "
            "smoothing, so their AVSS depends on variance alone."
        )
    return PageSection("Scores", paragraphs, [_score_figure(s, ratio) for s in drawn])


def _score_figure(scoring: ScoredLayers, ratio: float) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    layers = np.arange(len(scoring.score))
    dropped = scoring.rank < num_dropped(ratio, len(layers))
    figure = Figure(
        Scatter(
            x=layers,
            y=scoring.score,
            mode="lines+markers",
            line={"color": "#b8c4cf", "width": 1},
            marker={
                "size": 9,
                "color": [COLOURS[0] if d else "#ffffff" for d in dropped],
                "line": {"color": COLOURS[0], "width": 1.5},
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "array": scoring.high - scoring.score,
                "arrayminus": scoring.score - scoring.low,
                "color": "#5b6875",
                "thickness": 1,
            },
            customdata=scoring.rank,
            hovertemplate="layer %{x}<br>%{y:.4g}<br>rank %{customdata}<extra></extra>",
        )
    )
    style(figure, "layer", scoring.label, logarithmic=True, by_layer=True)
    return figure


def _statistics_section(merged: dict[str, Statistics]) -> PageSection:
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
            _lines(variance, "variance", logarithmic=True),
            _lines(sparse, "sparsity", logarithmic=True),
            _lines(cosine, "cosine"),
        ],
    )


def _lines(series: dict[str, NDArray[np.float64]], title: str, *, logarithmic: bool = False) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    figure = Figure(
        [
            Scatter(
                x=np.arange(len(values)),
                y=values,
                name=name,
                mode="lines+markers",
                line={"color": COLOURS[i % len(COLOURS)]},
                marker={"symbol": SYMBOLS[i % len(SYMBOLS)]},
                hovertemplate=f"{name}<br>layer %{{x}}: %{{y:.4g}}<extra></extra>",
            )
            for i, (name, values) in enumerate(series.items())
        ]
    )
    figure.update_layout(showlegend=len(series) > 1)
    style(figure, "layer", title, logarithmic=logarithmic, by_layer=True)
    return figure


def _histogram_section(merged: dict[str, Statistics]) -> PageSection:
    return PageSection(
        "Magnitudes",
        [
            "Distribution of activations over magnitudes. Each column is a layer, and the colour is the share of its "
            "activations in a bin of an eighth of an octave. Zeros and magnitudes outside 2^-40 to 2^24 are in the "
            "tables, but not in the figure."
        ],
        [_heat_map(tap, statistics) for tap, statistics in merged.items()],
    )


def _heat_map(tap: str, statistics: Statistics) -> "Figure":
    from plotly.graph_objects import Figure, Heatmap

    regular = statistics.histogram[:, FIRST_REGULAR:OVERFLOW]
    share = regular / np.maximum(statistics.count[:, None], 1)
    filled = np.flatnonzero(share.max(axis=0) > 1e-6)
    bins = slice(filled.min(), filled.max() + 1) if len(filled) else slice(0, NUM_REGULAR)
    exponents = np.log2(lower_edges()[FIRST_REGULAR:OVERFLOW])[bins]
    figure = Figure(
        Heatmap(
            z=share[:, bins].T,
            x=np.arange(len(share)),
            y=exponents,
            colorscale="Cividis",
            colorbar={"title": "share"},
            hovertemplate="layer %{x}<br>2^%{y:.2f}<br>share %{z:.4f}<extra></extra>",
        )
    )
    style(figure, "layer", f"{tap}: log2 |activation|", height=420, by_layer=True)
    return figure


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
    yield "Peak memory of an actor", f"{(manifest.peak_memory_bytes or 0) / 1e9:.2f} GB"
    yield from run_facts(manifest)


def _units(manifest: Manifest) -> str:
    """Return the sampling unit of the bootstrap."""
    return f"{manifest.facts['num_shards']} shards of prompts" if manifest.facts.get("by_shard") else "prompts"
