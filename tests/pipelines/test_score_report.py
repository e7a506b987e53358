"""The page of a score run, from tables made here."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from selenium import webdriver

from stratoscope.activations import Tap
from stratoscope.errors import InputError
from stratoscope.pipelines.reporting.layers import layers_text
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.score.group_report import group_correlations
from stratoscope.pipelines.score.load_statistics import StatisticsTables, score_tables
from stratoscope.pipelines.score.read_scores import read_scorings
from stratoscope.pipelines.score.report import build_page
from stratoscope.pipelines.score.run import check_any_scoring
from stratoscope.pipelines.score.verdict import _groups
from stratoscope.results import Manifest, Run, Storage, write_table
from stratoscope.results.report import render
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS
from stratoscope.tables.score import (
    LayerRow,
    LayerScoreRow,
    StabilityRow,
    layer_score_rows,
    prompt_stats,
    stability_row,
)
from tests.pages import page_faults

NUM_LAYERS, COUNT = 12, 1000
STEADY = np.array([3.0, 4, 5, 0, 0.4, 0.8, 3.5, 4.5, 5.5, 6, 7, 8])
"""Log AVSS of layers, of which the lowest stand apart."""


def score_run(
    folder: Path,
    log_avss: NDArray[np.float64],
    groups: list[str],
    *,
    metrics: tuple[str, ...] = ("avss", "last"),
    withdrawn: bool = False,
    unread: slice = slice(0),
    **counts: int,
) -> Run:
    """A run whose prompts have given log AVSS, shape (prompts, layers), at the tap update; none if it is withdrawn.

    Layers in `unread` have no activations at the tap.
    """
    shape = (*log_avss.shape, 1)
    variance = np.exp(log_avss)[..., None] * (99.5 / (COUNT + 1))
    histogram = np.zeros((*shape, NUM_BINS), np.int64)
    histogram[..., 300:310] = COUNT // 10
    statistics = Statistics(
        epsilons=(0.01,),
        prompts=np.ones(shape, np.int64),
        tokens=np.full(shape, 10),
        count=np.full(shape, COUNT),
        mean=np.zeros(shape),
        m2=variance * COUNT,
        pooled_variance=variance,
        histogram=histogram,
        below=np.full((*shape, 1), 99, np.int64),
        cosine=np.full(shape, 0.9),
        cosine_tokens=np.full(shape, 10),
        nonfinite=np.zeros(shape, np.int64),
    )
    layers = slice(None) if withdrawn else unread
    for name in ("count", "m2", "histogram", "below"):
        getattr(statistics, name)[:, layers] = 0
    statistics.pooled_variance[:, layers] = np.nan
    storage, number = Storage(str(folder)), len(groups)
    names = [f"p{i}" for i in range(number)]
    write_table(storage, "prompt_stats", prompt_stats(statistics, names, groups, [Tap.UPDATE]))
    rows = [LayerRow(layer=i, num_parameters=10, weight_norm=1.0) for i in range(NUM_LAYERS)]
    write_table(storage, "layers", LayerRow.table(rows))
    scores = {"metrics": list(metrics), "bootstrap": 100}
    config = ScoreConfig(model={"source": "owner/small"}, activations={"taps": ["update"]}, scores=scores)
    manifest = Manifest("score", "run", config.model_dump(mode="json"), 0, fingerprints={"weights": "w"})
    manifest.counts = {"scored": number, "tokens": 10 * number, "padded_tokens": 10 * number, "prompts": number}
    manifest.counts |= {"errors": 0, "truncated": 0, "nonfinite": 0, "shards_computed": 1, "shards_skipped": 0} | counts
    manifest.facts = {
        "architecture": "Llama", "num_layers": NUM_LAYERS, "num_parameters": 1, "device": "cpu", "dtype": "float32",
        "most_actors": 1, "threads_per_actor": 1, "epsilons": [0.01], "prompts_read": number, "num_prompts": number,
        "prompts_empty": 0, "prompts_duplicate": 0, "nonfinite_layers": {"update": [1, 2]},
        "groups": {name: groups.count(name) for name in groups},
    }  # fmt: skip
    if withdrawn:
        manifest.facts["withdrawn"] = {"update": "its parts do not add up"}
    run = Run(storage, manifest)
    scorings = score_tables(StatisticsTables.from_run(run), config.scores.to_settings(0))
    check_any_scoring(scorings, config.scores.metrics)
    layers = [row for group, scoring in scorings for row in layer_score_rows(scoring, group)]
    write_table(storage, "layer_scores", LayerScoreRow.table(layers))
    stability = [stability_row(scoring, group) for group, scoring in scorings]
    write_table(storage, "stability", StabilityRow.table(stability))
    return run


def log_avss(number: int, noise: float, means: NDArray[np.float64] = STEADY) -> NDArray[np.float64]:
    return means + np.random.default_rng(0).normal(0, noise, (number, NUM_LAYERS))


def test_the_title_names_the_layers_that_do_least(tmp_path: Path) -> None:
    page = build_page(score_run(tmp_path, log_avss(40, 0.01), ["all"] * 40))
    assert page.title == "small: layers 3-5 do least by AVSS (update)"
    assert page.verdict.paragraphs[0].startswith("Split-half 1.00: two halves of the prompts order the layers alike; ")
    assert "the lowest 3 of 12 layers stand apart from the others" in page.verdict.paragraphs[0]


def test_layers_whose_intervals_overlap_with_others_are_named_and_not_filled(tmp_path: Path) -> None:
    means = np.array([0.0, 0.2, 0.41, 0.4, *range(3, 11)])
    page = build_page(score_run(tmp_path, log_avss(40, 0.3, means), ["all"] * 40))
    lowest = [3, 2][page.title.startswith("small: layers 0-2")]
    assert f"layer {lowest} could change places with others" in page.verdict.paragraphs[0]
    (figure,) = page.verdict.figures
    fills, lines = figure.data[0].marker.color, figure.data[0].marker.line.color
    assert [n for n in range(NUM_LAYERS) if fills[n] != lines[n]] == [lowest]
    assert len({lines[n] for n in range(4, NUM_LAYERS)}) == 1


def test_an_order_that_halves_of_the_prompts_do_not_share_is_not_stated(tmp_path: Path) -> None:
    page = build_page(score_run(tmp_path, log_avss(8, 2, np.zeros(NUM_LAYERS)), ["all"] * 8))
    assert page.title == "small: no stable order of layers by AVSS (update)"


def test_the_stability_of_one_prompt_is_unknown_and_that_of_a_fixed_order_no_matter(tmp_path: Path) -> None:
    page = build_page(score_run(tmp_path / "one", log_avss(1, 0.01), ["all"]))
    assert page.title == "small: layers 3-5 do least by AVSS (update), of unknown stability"
    assert page.verdict.paragraphs[0].startswith("The stability of AVSS (update) is unknown")
    page = build_page(score_run(tmp_path / "last", log_avss(1, 0.01), ["all"], metrics=("last",)))
    assert page.title == "small: layers 9-11 do least by last"
    assert page.verdict.paragraphs[0] == "Last does not depend on the prompts."


def test_metrics_without_a_tap_are_computed_where_no_tap_can_be_read(tmp_path: Path) -> None:
    metrics = ("avss", "block_influence", "last")
    run = score_run(tmp_path / "some", log_avss(8, 0.1), ["all"] * 8, metrics=metrics, withdrawn=True)
    assert [scored.scoring.metric for scored in read_scorings(run)] == ["block_influence", "last"]
    assert build_page(run).title == "small: layers 0-2 do least by block influence, of unknown stability"
    with pytest.raises(InputError, match=r"scores.metrics avss: this model has no such score"):
        score_run(tmp_path / "none", log_avss(8, 0.1), ["all"] * 8, metrics=("avss",), withdrawn=True)


def test_groups_that_differ_and_warnings_stand_on_the_first_screen(tmp_path: Path, browser: webdriver.Chrome) -> None:
    values = log_avss(40, 0.1)
    values[30:] = values[30:, ::-1]
    run = score_run(tmp_path, values, ["most"] * 30 + ["reversed"] * 10, nonfinite=5, errors=2)
    page = build_page(run)
    text = "\n".join(page.verdict.paragraphs)
    assert page.title == "small: activations of layers 1 and 2 are NaN or infinite"
    assert text.startswith("WARNING: 5 activations")
    assert "WARNING: 2 of 40 prompts could not be scored" in text
    assert re.search(r"\d of 2 groups of prompts order the layers differently .*\breversed \([+-]0\.\d\d\)", text)
    path = tmp_path / "report.html"
    path.write_bytes(render(page))
    assert page_faults(browser, path) == []


def test_layers_without_a_score_are_no_agreement_between_groups(tmp_path: Path) -> None:
    """Only half of the layers have the tap, in which one group has the reverse order."""
    values = log_avss(40, 0.1)
    values[:, ::2] = np.nan
    values[30:, 1::2] = values[30:, 1::2][:, ::-1]
    run = score_run(tmp_path, values, ["most"] * 30 + ["reversed"] * 10, unread=slice(0, None, 2))
    scoring, *_ = read_scorings(run)
    assert np.isnan(scoring.score).sum() == NUM_LAYERS / 2
    correlations = group_correlations(run, scoring)
    assert correlations["reversed"] < 0.2 < correlations["most"]


def test_groups_whose_layers_do_not_differ_are_named() -> None:
    (text,) = _groups({"a": float("nan"), "b": float("nan")})
    assert text == "The order of layers cannot be compared in a and b: too few layers differ in their score."
    texts = list(_groups({"a": float("nan"), "b": 0.95, "c": 0.2}))
    assert texts[1].startswith("1 of 2 groups of prompts order the layers differently (rank correlation with all): c")


@pytest.mark.parametrize(
    ("layers", "text"),
    [([2], "layer 2"), ([1, 2], "layers 1 and 2"), ([3, 4, 5, 9], "layers 3-5 and 9"), ([0, 1, 2], "layers 0-2")],
)
def test_neighbouring_layers_are_a_range(layers: list[int], text: str) -> None:
    assert layers_text(layers) == text
