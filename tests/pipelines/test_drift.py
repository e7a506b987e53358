"""Layers that moved between two score runs."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.pipelines.audit.drift import Drift, drift
from stratoscope.pipelines.score.tables import LayerRow, prompt_stats
from stratoscope.results import Manifest, Storage, write_table
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS

NUM_LAYERS, COUNT = 6, 1000
Run = tuple[Storage, Manifest]


def run(folder: Path, log_avss: NDArray[np.float64], prompts: list[str], norms: list[float] | None = None) -> Run:
    """A score run whose prompts have given log AVSS, shape (prompts, layers)."""
    shape = (*log_avss.shape, 1)
    below = np.full((*shape, 1), 99, np.int64)
    variance = np.exp(log_avss)[..., None] * (99.5 / (COUNT + 1))
    statistics = Statistics(
        epsilons=(0.01,),
        prompts=np.ones(shape, np.int64),
        tokens=np.full(shape, 10),
        count=np.full(shape, COUNT),
        mean=np.zeros(shape),
        m2=variance * COUNT,
        pooled_variance=variance,
        histogram=np.zeros((*shape, NUM_BINS), np.int64),
        below=below,
        cosine=np.ones(shape),
        cosine_tokens=np.full(shape, 10),
        nonfinite=np.zeros(shape, np.int64),
    )
    storage = Storage(str(folder))
    write_table(storage, "prompt_stats", prompt_stats(statistics, prompts, ["all"] * len(prompts), [Tap.UPDATE]))
    rows = [LayerRow(i, 10, norm) for i, norm in enumerate(norms or [1.0] * NUM_LAYERS)]
    write_table(storage, "layers", LayerRow.table(rows))
    config = {
        "activations": {"taps": ["update"]},
        "prompts": {"source": "sciq", "template": None, "limit": len(prompts)},
    }
    prints = {"weights": str(norms)}
    return storage, Manifest("score", folder.name, config, 0, fingerprints=prints, facts={"epsilons": [0.01]})


def compared(now: Run, before: Run, seed: int = 0) -> Drift:
    found = drift(now, before, level=0.05, least=0.02, seed=seed)
    assert isinstance(found, Drift)
    return found


def noise(seed: int, prompts: int = 40) -> NDArray[np.float64]:
    """Prompts differ far more than layers do, and alike at all layers, as real prompts do."""
    generator = np.random.default_rng(seed)
    own = generator.normal(0, 1, (prompts, 1))
    return np.arange(NUM_LAYERS) + own + generator.normal(0, 0.05, (prompts, NUM_LAYERS))


def names(number: int, first: int = 0) -> list[str]:
    return [f"p{first + i}" for i in range(number)]


def test_an_identical_night_moves_nothing(tmp_path: Path) -> None:
    values = noise(0)
    found = compared(run(tmp_path / "b", values, names(40)), run(tmp_path / "a", values, names(40)))
    assert found.design == "same prompts"
    assert found.moved == []
    assert {s.p_value for s in found.shifts} == {1.0}
    assert found.rank_correlation == {"update": 1.0}
    assert found.reweighted == ()


def test_the_layer_that_was_changed_is_named_and_measured(tmp_path: Path) -> None:
    values = noise(0)
    changed = values + np.random.default_rng(1).normal(0, 0.01, values.shape)
    changed[:, 3] += 0.2
    norms = [1.0, 1.0, 1.0, 1.1, 1.0, 1.0]
    # In another order: prompts are matched by their ids.
    order = np.random.default_rng(2).permutation(40)
    later = run(tmp_path / "b", changed[order], [names(40)[i] for i in order], norms)
    found = compared(later, run(tmp_path / "a", values, names(40), [1.0] * NUM_LAYERS))
    assert found.moved == [3]
    assert found.reweighted == (3,)
    shift = found.shifts[3]
    assert shift.low < 0.2 < shift.high
    assert shift.shift == pytest.approx(0.2, abs=0.01)


def test_a_change_too_small_to_matter_is_no_move(tmp_path: Path) -> None:
    values = noise(0)
    found = compared(run(tmp_path / "b", values + 0.01, names(40)), run(tmp_path / "a", values, names(40)))
    assert found.shifts[0].p_value < 0.05
    assert found.moved == []


def test_other_prompts_are_compared_as_groups(tmp_path: Path) -> None:
    before = run(tmp_path / "a", noise(0), names(40))
    found = compared(run(tmp_path / "b", noise(1), names(40, first=40)), before)
    assert found.design == "other prompts"
    assert found.moved == []
    shifted = compared(run(tmp_path / "c", noise(1) + 3.0, names(40, first=40)), before)
    assert shifted.moved == list(range(NUM_LAYERS))


def test_nights_of_other_prompts_alert_no_more_often_than_the_level_says(tmp_path: Path) -> None:
    """Of 100 nights without a change, more than 11 alert at 5 % in under one of a hundred such tests."""
    alerts = 0
    for night in range(100):
        pair = [run(tmp_path / f"{night}{i}", noise(2 * night + i, 20), names(20, first=20 * i)) for i in range(2)]
        alerts += bool(compared(pair[1], pair[0], seed=night).moved)
    assert alerts <= 11


def test_runs_that_cannot_be_compared_say_why(tmp_path: Path) -> None:
    before = run(tmp_path / "a", noise(0), names(40))
    fewer = run(tmp_path / "b", noise(0)[:, :5], names(40))
    assert drift(fewer, before, level=0.05, least=0.02, seed=0) == "the model has another number of layers"
    other = run(tmp_path / "d", noise(0), names(40))
    other[1].config["prompts"]["template"] = "{{ text }}"
    assert drift(other, before, level=0.05, least=0.02, seed=0) == "prompts.template differ"
    few = run(tmp_path / "c", noise(0, 4), names(4))
    assert drift(few, before, level=0.05, least=0.02, seed=0) == "4 prompts are too few to compare"
