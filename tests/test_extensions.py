"""Another package adds a metric, a forecaster, a perturbation and a stage."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stratoscope.extensions import source_digest

ROOT = Path(__file__).parents[1]
PACKAGING = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "other-package"
version = "1.0"
[project.entry-points."stratoscope.metrics"]
loudness = "other_package:LOUDNESS"
broken = "other_package:NOTHING"
avss = "other_package:LOUDNESS"
[project.entry-points."stratoscope.forecasters"]
zero = "other_package:ZERO"
[project.entry-points."stratoscope.perturbations"]
shift = "other_package:SHIFT"
[project.entry-points."stratoscope.stages"]
layers = "other_package.stage:LAYERS"
width = "other_package.job:WIDTH"
"""
CODE = """
import numpy as np
from torch import nn

from stratoscope.forecasting import Forecast, Forecaster, Perturbation
from stratoscope.scoring import Metric


def loudness(measures):
    return np.sqrt(measures.variance)


class Zero(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def forward(self, series):
        return Forecast(series.new_zeros(len(series), self.shape.horizon, self.shape.channels))


LOUDNESS = Metric("loudness", loudness, per_tap=True, uses_variance=True)
ZERO = Forecaster(lambda shape, settings: Zero(shape), trainable=False)
SHIFT = Perturbation(lambda windows, level, generator: windows + level)
"""
STAGE = """
from stratoscope.pipelines.audit.stages import Stage
from stratoscope.pipelines.score import ScoreJob
from stratoscope.scoring import KeyMetric


def settings(entry, runs):
    return {"model": {"source": entry.source}, "scores": {"metrics": ["loudness"], "bootstrap": 100, "splits": 2}}


def figures(run):
    yield KeyMetric("layers", run.manifest.facts["num_layers"])


LAYERS = Stage("layers", ScoreJob, "model", settings, figures)
"""

PAGE = (ROOT / "docs" / "guides" / "extending.md").read_text()
(JOB,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class WidthJob" in block)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process that finds the package installed."""
    folder = tmp_path_factory.mktemp("other")
    package = folder / "source" / "other_package"
    package.mkdir(parents=True)
    (folder / "source" / "pyproject.toml").write_text(PACKAGING)
    (package / "__init__.py").write_text(textwrap.dedent(CODE))
    (package / "stage.py").write_text(textwrap.dedent(STAGE))
    (package / "job.py").write_text(JOB)
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(folder / "source")], check=True, capture_output=True)
    path = [str(target), str(ROOT / "platform"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.long
def test_entries_are_found_beside_ours_and_bad_ones_are_left_out_with_a_warning(environment: dict[str, str]) -> None:
    code = (
        "import json; from stratoscope.scoring import METRICS; from stratoscope.forecasting import *; "
        "from stratoscope.pipelines.audit.stages import STAGES; "
        "print(json.dumps([list(METRICS), METRICS['avss'].name, list(FORECASTERS), list(PERTURBATIONS), list(STAGES)]))"
    )
    answer = run(environment, "-c", code)
    assert answer.returncode == 0, answer.stderr
    metrics, avss, forecasters, perturbations, stages = json.loads(answer.stdout.splitlines()[-1])
    assert "loudness" in metrics
    assert "broken" not in metrics
    assert avss == "avss"
    assert (forecasters[-1], perturbations[-1], stages[-2:]) == ("zero", "shift", ["layers", "width"])
    warnings = [line for line in answer.stderr.splitlines() if "other-package" in line]
    assert len(warnings) == 2
    assert any("'broken'" in line and "cannot be imported" in line for line in warnings)
    assert any("'avss'" in line and "another entry has that name" in line for line in warnings)


@pytest.mark.long
def test_a_job_of_another_package_has_its_command(
    environment: dict[str, str], tiny_model_folder: Path, tmp_path: Path
) -> None:
    usage = run(environment, "-m", "stratoscope.cli", "--help").stdout
    assert re.search(r"^  width +a stage of the package other-package$", usage, re.MULTILINE)
    options = ["--model.source", str(tiny_model_folder), "--output", str(tmp_path), "--run_id", "one"]
    finished = run(environment, "-m", "stratoscope.cli", "width", *options)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == f"run: {tmp_path}/width/one"
    report = run(environment, "-m", "stratoscope.cli", "report", "one", "--output", str(tmp_path))
    assert "numbers for each token" in report.stdout, report.stderr
    refused = run(environment, "-m", "stratoscope.cli", "layers")
    assert refused.returncode == 2
    assert "use 'stratoscope score'" in refused.stderr


def test_a_digest_of_a_package_follows_all_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "third_package"
    package.mkdir()
    (package / "__init__.py").write_text("from third_package.parts import ONE")
    (package / "parts.py").write_text("ONE = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = source_digest("third_package")
    assert source_digest("third_package.parts") == before != ""
    (package / "parts.py").write_text("ONE = 2")
    assert source_digest("third_package") != before
    assert source_digest("no_package") == ""


@pytest.mark.slow
def test_an_audit_runs_them(
    environment: dict[str, str], tiny_model_folder: Path, prompts_file: Path, tmp_path: Path
) -> None:
    grid = {"seeds": [1], "perturbations": ["shift"], "levels": [0.0, 0.5], "trainings": ["plain"]}
    audit = {
        "output": str(tmp_path / "runs"),
        "run_id": "night",
        "models": [{"source": str(tiny_model_folder), "name": "tiny", "stages": ["layers", "width"]}],
        "forecasters": [{"forecaster": "zero"}],
        "settings": {
            "layers": {"prompts": {"source": str(prompts_file)}},
            "faithfulness": {"series": {"limit": 2000}, "grid": grid, "fit": {"epochs": 1}},
        },
    }
    file = tmp_path / "audit.yaml"
    file.write_text(json.dumps(audit))
    ended = run(environment, "jobs/audit.py", "--config", str(file))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = pq.read_table(tmp_path / "runs" / "audit" / "night" / "figures.parquet").to_pylist()
    assert [f["value"] for f in figures if (f["stage"], f["figure"]) == ("layers", "layers")] == [4]
    growth = [f["value"] for f in figures if f["figure"].startswith("growth under shift 0.5, zero")]
    assert growth == [0.0], "a forecaster that ignores its input is moved by nothing"
    scores = pq.read_table(tmp_path / "runs" / "score" / "night.tiny.layers" / "layer_scores.parquet")
    assert set(scores["metric"].to_pylist()) == {"loudness"}
    assert [f["value"] for f in figures if f["figure"] == "width"] == [32]
    again = run(environment, "jobs/audit.py", "--config", str(file), "--run_id", "again")
    assert again.returncode == 0, again.stdout + again.stderr
    models = pq.read_table(tmp_path / "runs" / "audit" / "again" / "models.parquet").to_pylist()
    assert {row["stage"]: row["status"] for row in models} == dict.fromkeys(
        ("layers", "width", "faithfulness"), "reused"
    )
