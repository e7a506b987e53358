"""Jobs submitted to a real head with token authentication on."""

import http.client
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
PORT, DASHBOARD, AGENT = 6391, 8291, 8292


@dataclass(frozen=True)
class Head:
    """A running head node and the environment of its clients."""

    ray: str
    """The `ray` command."""
    environment: dict[str, str]

    def submit(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `ray job submit` from the checkout and wait for the job."""
        command = [self.ray, "job", "submit", "--address", f"http://127.0.0.1:{DASHBOARD}", *arguments]
        for _ in range(10):
            answer = subprocess.run(
                command,
                cwd=ROOT,
                env=self.environment | changes,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            # The dashboard answers before the agent that starts jobs is available.
            if "No available agent" not in answer.stderr:
                break
            time.sleep(2)
        return answer


@contextmanager
def head(binaries: Path) -> Iterator[Head]:
    """Start a head whose Python is the one in `binaries`, from the checkout, and stop it again."""
    ray = str(Path(sys.executable).parent / "ray")
    # Ray's sockets need a short path, so this is not pytest's folder.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        token = Path(folder) / "token"
        token.write_text("a-token-for-this-test-alone-0123456789abcdef")
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))
        } | {
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        command = [str(binaries / "python"), "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        command += [
            f"--port={PORT}",
            f"--dashboard-port={DASHBOARD}",
            "--disable-usage-stats",
            f"--temp-dir={folder}/r",
        ]
        log = Path(folder) / "head.log"
        # Another Ray on this machine holds the usual port of the agent that starts jobs.
        command.append(f"--dashboard-agent-listen-port={AGENT}")
        # `ray stop` would end every Ray on the machine, the one of the other tests too; this head ends by itself.
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            wait_for(process, log, DASHBOARD)
            yield Head(ray, environment)
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_for(process: subprocess.Popen[bytes], log: Path, dashboard: int) -> None:
    """Return when the dashboard answers, even if it only demands a token."""
    for _ in range(120):
        assert process.poll() is None, log.read_text()
        with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", dashboard, timeout=5)) as connection:
            connection.request("GET", "/api/version")
            connection.getresponse()
            return
        time.sleep(0.5)
    raise TimeoutError(log.read_text())


@pytest.fixture
def job(tiny_model_folder: Path, prompts_file: Path, tmp_path: Path) -> list[str]:
    """The options of a small run."""
    fields = {
        "model.source": tiny_model_folder,
        "prompts.source": prompts_file,
        "output": tmp_path,
        "run_id": "submitted",
        "actors.max": 1,
    }
    return [part for name, value in fields.items() for part in (f"--{name}", str(value))]


def check(submitted: subprocess.CompletedProcess[str], output: Path) -> None:
    """Check that the job succeeded and left a finished run."""
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert f"run: {output}/score/submitted" in submitted.stdout
    manifest = json.loads((output / "score" / "submitted" / "manifest.json").read_text())
    assert (manifest["status"], manifest["exit_code"], manifest["counts"]["scored"]) == ("done", 0, 40)


def test_an_installed_package_needs_no_runtime_environment(job: list[str], tmp_path: Path) -> None:
    with head(Path(sys.executable).parent) as running:
        check(running.submit("--", "jobs/score.py", *job), tmp_path)
        refused = running.submit(
            "--", "jobs/score.py", *job, RAY_AUTH_TOKEN_PATH="/nonexistent", RAY_AUTH_MODE="disabled"
        )
        assert refused.returncode != 0, "a client without the token must be turned away"


@pytest.mark.slow
def test_the_runtime_environment_provides_the_package(job: list[str], tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="deps-") as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        packages = Path(sysconfig.get_path("purelib", vars={"base": folder, "platbase": folder}))
        # The folder of packages is on the path, but the file in it that makes the checkout importable is not read.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        binaries = Path(folder) / "bin"
        probe = [str(binaries / "python"), "-c", "import ray, torch; import stratoscope"]
        absent = subprocess.run(probe, cwd=folder, capture_output=True, text=True, check=False)
        assert "No module named 'stratoscope'" in absent.stderr
        with head(binaries) as running:
            check(running.submit("--runtime-env", "runtime_env.yaml", "--", "python", "jobs/score.py", *job), tmp_path)


@pytest.mark.slow
def test_two_concurrent_audits_do_not_interfere(tiny_model_folder: Path, prompts_file: Path, tmp_path: Path) -> None:
    audit = {
        "output": str(tmp_path / "runs"),
        "models": [{"source": str(tiny_model_folder), "name": "tiny", "stages": ["score"]}],
        "forecasters": [],
        "settings": {"score": {"prompts": {"source": str(prompts_file)}, "actors": {"max": 1}}},
    }
    file = tmp_path / "audit.yaml"
    file.write_text(json.dumps(audit))
    with head(Path(sys.executable).parent) as running, ThreadPoolExecutor(2) as both:
        nights = [
            both.submit(running.submit, "--", "jobs/audit.py", "--config", str(file), "--run_id", night)
            for night in ("n1", "n2")
        ]
        for night in nights:
            submitted = night.result()
            assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    for night in ("n1", "n2"):
        manifest = json.loads((tmp_path / "runs" / "audit" / night / "manifest.json").read_text())
        assert (manifest["status"], manifest["exit_code"]) == ("done", 0)
