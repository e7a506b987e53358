"""Runs that are killed and started again end as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stratoscope
from stratoscope.cli import main
from stratoscope.pipelines.score import run as run_module
from stratoscope.results import ShardStore, Storage
from tests.jobs.faulty import Faulty, Once, break_the_device, die
from tests.jobs.small import NUM_SHARDS, Fields, command_line, same_tables

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.usefixtures("local_ray")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real server of the S3 protocol on this machine."""
    import boto3
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    earlier = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    boto3.client("s3").create_bucket(Bucket="nightly")
    yield "s3://nightly/runs"
    server.stop()
    for name, value in earlier.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    # fsspec keeps one file system per process, which would go on with this server and its credentials.
    S3FileSystem.clear_instance_cache()


def start(fields: dict, address: str = "", **changes: str) -> subprocess.Popen[str]:
    """Start the job in a process of its own, on the Ray at an address or with one of its own."""
    environment = os.environ | {"RAY_ADDRESS": address}
    command = [sys.executable, str(ROOT / "jobs" / "score.py"), *command_line(fields, **changes)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_shards(fields: dict, run_id: str, number: int, process: subprocess.Popen[str] | None = None) -> None:
    """Return as soon as so many shards of a run are done."""
    store = ShardStore(Storage(fields["output"]).child("score", run_id))
    deadline = time.monotonic() + 120
    while store.num_done() < number:
        assert time.monotonic() < deadline, "no shard was finished"
        assert process is None or process.poll() is None, process.communicate() if process else ""
        time.sleep(0.005)


@pytest.mark.parametrize("place", [pytest.param("disk", marks=pytest.mark.slow), "s3"])
def test_a_killed_driver_is_followed_by_another(
    place: str,
    small_run: Fields,
    undisturbed: stratoscope.ScoreRun,
    raylets: "Cluster",
    request: pytest.FixtureRequest,
) -> None:
    output = request.getfixturevalue("bucket") if place == "s3" else small_run()["output"]
    fields = small_run(output=output, run_id=f"killed-{place}")
    process = start(fields, raylets.address if place == "s3" else "")
    wait_for_shards(fields, fields["run_id"], 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = ShardStore(Storage(output).child("score", fields["run_id"])).num_done()
    assert 3 <= left < NUM_SHARDS
    resumed = stratoscope.score(**fields)
    counts = resumed.manifest.counts
    assert counts["shards_skipped"] >= left, "an actor may outlive its driver by a moment, and store its shard"
    assert counts["shards_computed"] == NUM_SHARDS - counts["shards_skipped"] > 0
    same_tables(resumed, undisturbed)
    names = Storage(resumed.path).names()
    assert "shards" not in names
    assert "lease.json" not in names
    assert {"report.html", "log.txt", "manifest.json"} <= set(names)


@pytest.mark.slow
def test_sigterm_finishes_the_shard_and_a_second_start_meanwhile_is_refused(
    small_run: Fields, undisturbed: stratoscope.ScoreRun, raylets: "Cluster", capfd: pytest.CaptureFixture[str]
) -> None:
    fields = small_run(run_id="stopped")
    process = start(fields, raylets.address)
    wait_for_shards(fields, "stopped", 3, process)
    assert main(["score", *command_line(fields)]) == 2
    assert "is in use by process" in capfd.readouterr().err
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run:" not in out
    folder = Path(fields["output"]) / "score" / "stopped"
    left = ShardStore(Storage(str(folder))).num_done()
    assert err.splitlines()[-1] == (
        f"score: stopped by SIGTERM with {left} of {NUM_SHARDS} shards done; repeat the command with the same run_id "
        "to resume"
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["status"], manifest["exit_code"]) == ("failed", 1)
    assert not (folder / "lease.json").exists()
    resumed = stratoscope.score(**fields)
    assert resumed.manifest.counts["shards_computed"] == NUM_SHARDS - left < NUM_SHARDS
    same_tables(resumed, undisturbed)


@pytest.mark.parametrize("trouble", [die, pytest.param(break_the_device, marks=pytest.mark.slow)])
def test_a_shard_whose_actor_dies_is_done_again(
    trouble: Callable[..., None],
    small_run: Fields,
    undisturbed: stratoscope.ScoreRun,
    many_prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = many_prompts.read_text().splitlines()[100]
    monkeypatch.setattr(run_module, "make_worker", Faulty(Once(str(tmp_path / "done"), trouble), victim))
    survived = stratoscope.score(**small_run(run_id=f"actor-{trouble.__name__}"))
    assert (tmp_path / "done").exists()
    assert survived.manifest.counts["shards_retried"] >= 1
    same_tables(survived, undisturbed)


@pytest.mark.slow
def test_a_node_that_goes_away_takes_no_prompt_along(
    small_run: Fields, undisturbed: stratoscope.ScoreRun, raylets: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    third = raylets.add_node(num_cpus=1, object_store_memory=150 * 2**20)
    raylets.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", raylets.address)  # without it, the job counts the CPUs of this machine
    fields = small_run(run_id="node", actors={"min": 3, "max": 3})
    monkeypatch.setattr(run_module, "make_worker", Faulty(pause=0.6))

    def take_away() -> None:
        wait_for_shards(fields, "node", 15)
        raylets.remove_node(third, allow_graceful=False)

    thread = threading.Thread(target=take_away)
    thread.start()
    survived = stratoscope.score(**fields)
    thread.join()
    assert survived.manifest.counts["shards_retried"] >= 1, "the node had a shard in work"
    same_tables(survived, undisturbed)
