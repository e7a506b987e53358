"""Drift between two score runs, from their tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.errors import DamagedFileError
from stratoscope.pipelines.audit.layer_drift import layer_drift, prompt_scores
from stratoscope.results import Manifest, Run, Storage, write_table
from stratoscope.scoring.drift import Drift, NotComparableError
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS
from stratoscope.tables.score import LayerRow, prompt_stats

NUM_LAYERS, COUNT = 6, 1000


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
    weight_norms = enumerate(norms or [1.0] * NUM_LAYERS)
    rows = [LayerRow(layer=i, num_parameters=10, weight_norm=norm) for i, norm in weight_norms]
    write_table(storage, "layers", LayerRow.table(rows))
    config = {
        "activations": {"taps": ["update"]},
        "prompts": {"source": "sciq", "limit": len(prompts)},
    }
    prints = {"weights": str(norms)}
    return Run(storage, Manifest("score", folder.name, config, 0, fingerprints=prints, facts={"epsilons": [0.01]}))


def compare(now: Run, before: Run) -> Drift:
    return layer_drift(now, before, level=0.05, min_shift=0.02, seed=0)


def noise() -> NDArray[np.float64]:
    return np.arange(NUM_LAYERS) + np.random.default_rng(0).normal(0, 1, (40, NUM_LAYERS))


PROMPTS = [f"p{i}" for i in range(40)]


def test_the_scores_of_a_run_are_read_from_its_tables(tmp_path: Path) -> None:
    values = noise()
    scores = prompt_scores(run(tmp_path, values, PROMPTS))
    assert scores.prompts == PROMPTS
    np.testing.assert_allclose(scores.values["update"], values)


def test_layers_with_other_weights_are_named(tmp_path: Path) -> None:
    values = noise()
    changed = values + np.random.default_rng(1).normal(0, 0.001, values.shape)
    changed[:, 3] += 0.2
    norms = [1.0, 1.0, 1.0, 1.1, 1.0, 1.0]
    drift = compare(run(tmp_path / "b", changed, PROMPTS, norms), run(tmp_path / "a", values, PROMPTS))
    assert (drift.moved, drift.reweighted) == ([3], (3,))
    assert compare(run(tmp_path / "c", values, PROMPTS), run(tmp_path / "d", values, PROMPTS)).reweighted == ()


def test_runs_of_other_prompts_settings_are_not_compared(tmp_path: Path) -> None:
    before, other = (run(tmp_path / name, noise(), PROMPTS) for name in "ab")
    other.manifest.config["prompts"] |= {"template": None, "bos": "auto"}
    assert compare(other, before).moved == [], "a field that a manifest lacks has its default"
    other.manifest.config["prompts"]["template"] = "{{ text }}"
    with pytest.raises(NotComparableError, match=r"^prompts\.template differ$"):
        compare(other, before)


def test_taps_that_a_run_could_not_read_are_not_compared(tmp_path: Path) -> None:
    now, before = (run(tmp_path / name, noise(), PROMPTS) for name in "ab")
    for each in (now, before):
        each.manifest.config["activations"]["taps"] = ["mlp", "update"]
    now.manifest.facts["withdrawn"] = before.manifest.facts["withdrawn"] = {"mlp": "no such module"}
    assert {shift.tap for shift in compare(now, before).shifts} == {"update"}
    now.manifest.facts["withdrawn"] = {"mlp": "no such module", "update": "no residual stream"}
    with pytest.raises(NotComparableError, match="run a has read no tap"):
        compare(now, before)


def test_a_run_that_keeps_no_single_prompt_is_not_compared(tmp_path: Path) -> None:
    now, before = (run(tmp_path / name, noise(), PROMPTS) for name in "ab")
    table = now.table("prompt_stats")
    write_table(now.storage, "prompt_stats", table.slice(0, 0))
    with pytest.raises(NotComparableError, match="run a keeps the statistics of no single prompt"):
        compare(now, before)


def test_layers_without_activations_are_marked(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", noise(), PROMPTS)
    table = whole.table("prompt_stats")
    gone = pc.and_(pc.equal(table["tap"], "update"), pc.equal(table["layer"], 3))
    zeros = pc.if_else(gone, pa.scalar(0, table["count"].type), table["count"])
    write_table(whole.storage, "prompt_stats", table.set_column(table.schema.get_field_index("count"), "count", zeros))
    assert prompt_scores(whole).unread == {("update", 3)}


@pytest.mark.parametrize("table", ["prompt_stats", "layers"])
def test_a_damaged_earlier_run_is_no_fault_of_this_one(table: str, tmp_path: Path) -> None:
    now, before = (run(tmp_path / name, noise(), PROMPTS, [float(n)] * NUM_LAYERS) for n, name in enumerate("ab", 1))
    file = tmp_path / "b" / f"{table}.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(NotComparableError, match=rf"the earlier run cannot be read: .*{table}\.parquet"):
        compare(now, before)
    with pytest.raises(DamagedFileError, match=table):
        compare(before, now)
