"""Faults put into a run on purpose: each ends in a right result or a clear failure, and none in a hang."""

import json
import resource
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import stratoscope
from stratoscope.cli import main
from stratoscope.errors import InputError, RunError
from stratoscope.execution.attempts import DEATHS_WHILE_LOADING
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.score import run as run_module
from stratoscope.pipelines.score.report import build_page
from stratoscope.pipelines.score.worker import ScoreWorker
from stratoscope.pipelines.sharded.batches import CRASHED
from stratoscope.results import from_parquet
from tests.jobs.faulty import (
    Faulty,
    die,
    die_while_loading,
    run_out_of_address_space,
    too_large_for_the_device,
)
from tests.jobs.small import Fields, command_line, same_tables, settings_of, shards_of

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def victim(many_prompts: Path) -> str:
    return many_prompts.read_text().splitlines()[100]


def all_but(run: stratoscope.ScoreRun, prompt_id: str, expected: stratoscope.ScoreRun) -> None:
    """Every prompt but one is in the tables, with statistics that differ from the expected ones by rounding alone."""
    others = [table.filter(pc.not_equal(table["prompt_id"], prompt_id)) for table in map(stats, (run, expected))]
    assert stats(run).num_rows == others[0].num_rows == others[1].num_rows == 319 * 4 * 2
    np.testing.assert_allclose(others[0]["m2"], others[1]["m2"], rtol=1e-5)


def stats(run: stratoscope.ScoreRun) -> pa.Table:
    return run.table("prompt_stats")


def test_a_prompt_that_kills_its_actor_is_found_and_the_others_are_scored(
    small_run: Fields, undisturbed: stratoscope.ScoreRun, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "make_worker", Faulty(die, victim))
    run = stratoscope.score(**small_run(run_id="killer"))
    (row,) = run.table("errors").to_pylist()
    assert row["error"] == CRASHED
    assert run.manifest.counts["shards_retried"] >= 1
    assert (run.manifest.counts["scored"], run.manifest.counts["errors"]) == (319, 1)
    all_but(run, row["prompt_id"], undisturbed)


def test_a_prompt_for_which_there_is_no_memory_goes_to_the_errors(
    small_run: Fields, undisturbed: stratoscope.ScoreRun, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "make_worker", Faulty(run_out_of_address_space, victim))
    run = stratoscope.score(**small_run(run_id="rlimit"))
    (row,) = run.table("errors").to_pylist()
    assert "allocate" in row["error"]
    assert run.manifest.counts["halved"] >= 1
    all_but(run, row["prompt_id"], undisturbed)


def test_a_batch_too_large_for_the_device_is_halved(
    small_run: Fields, undisturbed: stratoscope.ScoreRun, victim: str
) -> None:
    fields = small_run(run_id="halved", batching={"shard_size": 160, "max_tokens": 256})
    job, settings = settings_of(validate(ScoreConfig, fields))
    worker = Faulty(too_large_for_the_device, victim)(settings)
    shards = [worker(shard) for shard in shards_of(job)]
    assert sum(shard.counts["halved"] for shard in shards) >= 1
    assert [(shard.counts["scored"], shard.counts["errors"]) for shard in shards] == [(160, 0)] * 2
    halved = pa.concat_tables([from_parquet(shard.files["prompt_stats"]) for shard in shards])
    assert halved["prompt_id"].equals(stats(undisturbed)["prompt_id"])
    np.testing.assert_allclose(halved["m2"], stats(undisturbed)["m2"], rtol=1e-5)


@pytest.mark.slow
def test_actors_that_die_while_they_load_end_the_run(
    small_run: Fields, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "make_worker", die_while_loading)
    assert main(["score", *command_line(small_run(run_id="loading"))]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert f"an actor died {DEATHS_WHILE_LOADING + 1} times while it loaded" in lines[-1]


@pytest.mark.slow
def test_a_weight_that_is_not_finite_is_counted_and_spoils_no_other_layer(
    small_run: Fields, undisturbed: stratoscope.ScoreRun, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "infinite"
    shutil.copytree(tiny_model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.3.mlp.down_proj.weight"][5, 7] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    run = stratoscope.score(**small_run(run_id="infinite", model={"source": str(folder)}))
    assert run.manifest.counts["errors"] == 0
    spoilt = pc.equal(stats(run)["layer"], 3)
    tokens = undisturbed.manifest.counts["tokens"]
    assert run.manifest.counts["nonfinite"] == pc.sum(stats(run).filter(spoilt)["nonfinite"]).as_py() == 2 * tokens
    assert run.manifest.facts["nonfinite_layers"] == {"block": [3], "update": [3]}
    assert build_page(run).verdict.paragraphs[0].startswith("WARNING")
    before = [stats(r).filter(pc.less(stats(r)["layer"], 3)) for r in (run, undisturbed)]
    np.testing.assert_allclose(before[0]["m2"], before[1]["m2"], rtol=1e-5)
    of_activations = run.layer_scores.filter(pc.is_in(run.layer_scores["metric"], pa.array(["avss", "variance"])))
    assert np.isfinite(of_activations["score"].to_numpy(zero_copy_only=False)).all()


def test_a_full_disk_ends_the_run_and_leaves_nothing_half(
    small_run: Fields, undisturbed: stratoscope.ScoreRun, capfd: pytest.CaptureFixture[str]
) -> None:
    """No file of the driver may be larger than a few kilobytes, so the first shard's statistics do not fit."""
    fields = small_run(run_id="full")
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, earlier[1]))
    try:
        code = main(["score", *command_line(fields)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)
    assert code == 1
    assert "File too large" in capfd.readouterr().err.splitlines()[-1]
    folder = Path(fields["output"]) / "score" / "full"
    assert not [path for path in folder.rglob(".*") if path.is_file()], "nothing is left aside"
    for path in folder.rglob("*.parquet"):
        pq.read_table(path)
    same_tables(stratoscope.score(**fields), undisturbed)


@pytest.mark.parametrize("too_long", ["truncate", "refuse"])
def test_a_prompt_of_a_hundred_thousand_tokens(
    too_long: str, small_run: Fields, many_prompts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.txt"
    lines = many_prompts.read_text().splitlines()[:15]
    path.write_text("\n".join([*lines, "w1 " * 100_000]) + "\n")
    prompts = {"source": str(path), "too_long": too_long}
    fields = small_run(run_id=f"long-{too_long}", prompts=prompts, batching={"shard_size": 16, "max_tokens": 256})
    job, settings = settings_of(validate(ScoreConfig, fields))
    result = ScoreWorker(settings)(*shards_of(job))
    counts = result.counts
    if too_long == "truncate":
        assert (counts["truncated"], counts["scored"], counts["errors"]) == (1, 16, 0)
        assert pc.max(from_parquet(result.files["prompt_stats"])["tokens"]).as_py() == 64
    else:
        assert (counts["truncated"], counts["scored"], counts["errors"]) == (0, 15, 1)
        (row,) = from_parquet(result.files["errors"]).to_pylist()
        assert row["error"] == "too long: 100000 tokens, prompts.max_tokens is 64"


@pytest.mark.slow
def test_too_many_errors_fail_a_run_that_can_go_on_with_more_allowed(
    small_run: Fields, many_prompts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = {"source": str(many_prompts), "limit": None, "too_long": "refuse", "max_tokens": 16}
    fields = small_run(run_id="strict", prompts=prompts)
    assert main(["score", *command_line(fields, fail_on_error="0.02")]) == 1
    message = capfd.readouterr().err.splitlines()[-1]
    assert "prompts could not be scored and fail_on_error is 0.02; they are in" in message
    failed = pq.read_table(Path(fields["output"]) / "score" / "strict" / "errors.parquet")
    assert failed.num_rows > 0.02 * 320
    with pytest.raises(RunError, match="fail_on_error is True"):
        stratoscope.score(**fields, fail_on_error=True)
    run = stratoscope.score(**fields, fail_on_error=320)
    assert run.manifest.counts["shards_skipped"] > 0
    assert run.manifest.counts["errors"] == run.table("errors").num_rows > failed.num_rows


def broken_parquet(path: Path, spoil: Callable[[bytearray], bytearray]) -> Path:
    rows = [{"text": f"w{i} w{i + 1}"} for i in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=500, write_page_checksum=True)
    path.write_bytes(spoil(bytearray(path.read_bytes())))
    return path


def in_the_middle(content: bytearray) -> bytearray:
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(b ^ 0x5A for b in content[middle : middle + 40])
    return content


@pytest.mark.parametrize("spoil", [lambda content: content[:3000], lambda content: content[:-4], in_the_middle])
def test_a_corrupt_parquet_file_is_refused_before_a_model_is_loaded(
    spoil: Callable[[bytearray], bytearray], small_run: Fields, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = broken_parquet(tmp_path / "rows.parquet", spoil)
    fields = small_run(run_id="corrupt", prompts={"source": str(path)})
    assert main(["score", *command_line(fields)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "rows.parquet cannot be read as parquet" in line
    assert not (Path(fields["output"]) / "score" / "corrupt").exists()


def test_a_model_that_lacks_a_weight_file_is_refused_before_it_is_loaded(
    small_run: Fields, tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(tiny_model_folder, folder)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert main(["score", *command_line(small_run(run_id="incomplete", model={"source": str(folder)}))]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "lacks 1 of its 2 weight files, such as model-00002-of-00002.safetensors" in line


@pytest.mark.parametrize("section", ["model", "prompts"])
def test_a_hub_that_does_not_answer_is_named_at_once(
    section: str, small_run: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        started = time.monotonic()
        with pytest.raises(InputError, match="the hub cannot be reached"):
            stratoscope.score(**small_run(run_id="hub", **{section: {"source": "nobody/nothing"}}))
        # Ten seconds of waiting; the rest is for machines that run other tests meanwhile.
        assert time.monotonic() - started < 40
