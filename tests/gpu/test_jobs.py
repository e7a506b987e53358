"""Every job on a GPU, and scores there against those of the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
ROOT = Path(__file__).parents[2]
WEIGHTS = 2 * 134_000_000
"""Bytes of SmolLM2's weights in bfloat16."""
LIMIT_S = 420
"""Longest time of a job: the first one on a machine converts the model and compiles the kernel."""
ARGUMENTS = {
    "score": ["--prompts.limit", "48", "--model.dtype", "float32"],
    "hallucination": ["--pairs.limit", "60"],
    "search": [
        *("--search.num_samples", "3", "--prompts.limit", "32", "--evaluation.tasks", "sciq"),
        *("--evaluation.limit", "8", "--evaluation.held_out", "8", "--final.random_sets", "2"),
    ],
    "mitigation": ["--layers", "20,21", "--train.max_steps", "4", "--pairs.limit", "40", "--evaluation.limit", "12"],
    "audit": [],
    "faithfulness": [
        *("--grid.seeds", "2021,2022", "--fit.epochs", "1", "--fit.faithful_epochs", "1", "--series.limit", "3000"),
    ],
}


def run(job: str, output: Path, *more: str) -> Path:
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--output", str(output), *ARGUMENTS[job], *more]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=LIMIT_S)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    folder = Path(answer.stdout.split("run: ")[-1].strip())
    assert json.loads((folder / "manifest.json").read_text())["status"] == "done"
    return folder


@pytest.mark.parametrize("job", ["hallucination", "search", "mitigation", "faithfulness"])
def test_a_job_ends_well(job: str, tmp_path: Path) -> None:
    folder = run(job, tmp_path)
    assert (folder / "report.html").stat().st_size
    if job in ("search", "mitigation"):
        facts = json.loads((folder / "manifest.json").read_text())["facts"]
        assert facts["batch_tokens"] in {2**n for n in range(17)}, "evaluators use the batches that were measured"
    if job == "mitigation":
        for variant in pq.read_table(folder / "variants.parquet").to_pylist():
            assert variant["peak_gpu_memory_bytes"] > WEIGHTS


def test_a_night_ends_well(tmp_path: Path) -> None:
    night = {
        "name": "gpu",
        "models": [{"source": "smollm2", "stages": ["score"]}],
        "forecasters": [{"forecaster": "linear"}],
        "settings": {
            "score": {"prompts": {"source": "sciq", "limit": 48}},
            "faithfulness": {
                "series": {"source": ["epf_fr"], "limit": 3000},
                "grid": {"seeds": [2021, 2022]},
                "fit": {"epochs": 1, "faithful_epochs": 1},
            },
        },
    }
    (tmp_path / "night.json").write_text(json.dumps(night))
    folder = run("audit", tmp_path, "--config", str(tmp_path / "night.json"))
    stages = pq.read_table(folder / "models.parquet").to_pylist()
    assert {stage["status"] for stage in stages} == {"done"}


def test_statistics_and_ranks_are_those_of_the_cpu(tmp_path: Path) -> None:
    folders = [
        run("score", tmp_path / gpus, "--actors.gpus", gpus, "--actors.min", "1", "--actors.max", "1")
        for gpus in ("1", "0")
    ]
    on_gpu, on_cpu = (sorted_table(folder, "prompt_stats", ["tap", "layer", "prompt_id"]) for folder in folders)
    np.testing.assert_allclose(on_gpu["m2"], on_cpu["m2"], rtol=1e-4)
    np.testing.assert_allclose(on_gpu["cosine"], on_cpu["cosine"], atol=1e-5)
    below = [np.array(table["below"].tolist()) for table in (on_gpu, on_cpu)]
    assert np.abs(below[0] - below[1]).max() <= 2, "only values at the threshold may be counted otherwise"
    assert (below[0] != below[1]).mean() < 0.05
    # The sparsity of a short prompt is some ten values, so that a score may differ by more than its moments do.
    on_gpu, on_cpu = (sorted_table(folder, "layer_scores", ["tap", "metric", "layer"]) for folder in folders)
    np.testing.assert_allclose(on_gpu["score"], on_cpu["score"], rtol=0.02)
    moments = (on_gpu["metric"] == "variance").to_numpy()
    np.testing.assert_allclose(on_gpu["score"][moments], on_cpu["score"][moments], rtol=1e-3)
    assert (on_gpu["rank"].to_numpy() == on_cpu["rank"].to_numpy()).mean() > 0.95


def sorted_table(folder: Path, name: str, keys: list[str]) -> pd.DataFrame:
    return pq.read_table(folder / f"{name}.parquet").to_pandas().sort_values(keys)


def test_batches_are_measured_recorded_and_the_same_for_two_actors_on_one_gpu(tmp_path: Path) -> None:
    more = ["--prompts.limit", "600", "--model.dtype", "bfloat16", "--batching.shard_size", "100"]
    alone = run("score", tmp_path / "alone", *more, "--actors.max", "1")
    manifest = json.loads((alone / "manifest.json").read_text())
    assert manifest["peak_gpu_memory_bytes"] > WEIGHTS < manifest["peak_memory_bytes"]
    facts = manifest["facts"]
    assert facts["batch_tokens"] in {2**n for n in range(10, 17)}
    given = ["--batching.max_tokens", str(facts["batch_tokens"])]
    shared = run("score", tmp_path / "shared", *more, *given, "--actors.gpus", "0.5", "--actors.min", "2")
    tables = [pq.read_table(folder / "prompt_stats.parquet") for folder in (alone, shared)]
    assert tables[0].equals(tables[1]), "the same batches give the same bits, however many actors share the GPU"
