"""A real autoscaling Ray on this machine: no worker at first, two while a job runs, none afterwards."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray.util
import yaml

import stratoscope
from tests.jobs.small import COMPARED, Fields, command_line
from tests.jobs.test_submit import wait_for

ROOT = Path(__file__).parents[2]
PORT, DASHBOARD, AGENT, OBJECT_STORE = 6392, 8293, 8294, 150 * 2**20
IDLE_MINUTES = 0.4


def autoscaling() -> dict:
    """Return the configuration of Ray's provider of extra raylets on one machine."""
    none: dict = {f"{kind}_commands": [] for kind in ("initialization", "setup", "head_setup", "worker_setup")}
    return none | {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{ray.util.get_node_ip_address()}:{PORT}",
            "launch_multiple": True,
            "use_node_id_as_ip": True,  # all raylets here have one address
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {"ssh_user": "nobody"},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


@contextmanager
def autoscaling_head(folder: Path) -> Iterator[dict[str, str]]:
    """Start the head and yield the environment of its clients."""
    config = folder / "autoscaling.yaml"
    config.write_text(yaml.safe_dump(autoscaling()))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_DEFAULT_OBJECT_STORE_MEMORY_BYTES": str(OBJECT_STORE),
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=0"]
    command += [f"--autoscaling-config={config}", f"--port={PORT}", f"--dashboard-port={DASHBOARD}"]
    command += [f"--dashboard-agent-listen-port={AGENT}", f"--temp-dir={folder}/r", "--disable-usage-stats"]
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        wait_for(process, log, DASHBOARD)
        yield environment | {"RAY_ADDRESS": f"127.0.0.1:{PORT}"}
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def watching(environment: dict[str, str]) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of living nodes besides the head.

    One driver stays connected, since nodes start processes for every new driver and would appear busy.
    """
    code = """
import ray, sys
ray.init(log_to_driver=False)
for _ in sys.stdin:
    print(sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")), flush=True)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def workers() -> int:
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield workers
        process.stdin.close()


@pytest.mark.slow
def test_workers_come_for_a_job_and_leave_when_it_is_done(small_run: Fields, undisturbed: stratoscope.ScoreRun) -> None:
    fields = small_run(run_id="autoscaled", actors={"min": 2, "max": 2})
    command = [sys.executable, str(ROOT / "jobs" / "score.py"), *command_line(fields)]
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        autoscaling_head(Path(folder)) as environment,
        watching(environment) as workers,
    ):
        assert workers() == 0
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        most = 0
        while process.poll() is None:
            most = max(most, workers())
            time.sleep(0.5)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert most == 2
        deadline = time.monotonic() + 240
        while workers():
            assert time.monotonic() < deadline, "idle workers stayed"
            time.sleep(2)
    finished = stratoscope.open_run(out.splitlines()[-1].removeprefix("run: "))
    for name in COMPARED:
        assert finished.table(name).equals(undisturbed.table(name)), name
