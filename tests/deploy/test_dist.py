"""The wheel and the sdist that `make dist` builds install into a clean environment and score a model there."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def call(*command: object, cwd: Path) -> str:
    """Run a command outside the checkout's environment, and return what it printed."""
    answer = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=CLEAN, capture_output=True, text=True, timeout=560, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel and an sdist of the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def environment(distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("clean")
    installer = [sys.executable, ROOT / "tools" / "install.py", "--environment", folder / "env"]
    call(*installer, "--package", distributions["wheel"], cwd=folder)
    return folder / "env"


def test_the_sdist_has_the_pins_and_the_jobs(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"constraints.txt", "jobs/score.py", "jobs/configs/score.yaml"} <= names


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_distribution_scores_a_model_in_a_clean_environment(
    kind: str,
    distributions: dict[str, Path],
    environment: Path,
    tiny_model_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
) -> None:
    python = environment / "bin" / "python"
    call(python, "-m", "pip", "install", "--no-deps", "--force-reinstall", distributions[kind], cwd=tmp_path)
    where = call(python, "-c", "import stratoscope; print(stratoscope.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment))
    options = ["--model.source", tiny_model_folder, "--prompts.source", prompts_file, "--run_id", kind]
    output = call(environment / "bin" / "stratoscope", "score", *options, "--output", tmp_path, cwd=tmp_path)
    assert "least important first" in output
    manifest = json.loads((tmp_path / "score" / kind / "manifest.json").read_text())
    assert (manifest["status"], manifest["counts"]["scored"]) == ("done", 40)
    assert (tmp_path / "score" / kind / "report.html").is_file()
    planned = call(environment / "bin" / "stratoscope", "score", "--dry_run", cwd=tmp_path)
    assert "256 of" in planned, "the bundled model and questions are found"
