"""A night in which nothing has changed: its stages' runs are recognised without torch, without Ray and in seconds."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stratoscope.pipelines.audit.config import AuditConfig
from stratoscope.pipelines.audit.steps import StepStore, all_steps
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.request import request_digest
from stratoscope.results import Manifest, RunFolder, Storage, write_table
from stratoscope.tables.score import StabilityRow

NIGHT = """
import sys
from stratoscope.cli import main
code = main(["audit", "--config", {file!r}, "--run_id", {run_id!r}])
print(code, sorted({{"torch", "ray", "transformers"}} & set(sys.modules)))
"""


@pytest.fixture
def file(tiny_model_folder: Path, prompts_file: Path, tmp_path: Path) -> Path:
    """The file of an audit whose one stage has a finished run, written here without Ray."""
    settings = {
        "output": str(tmp_path / "runs"),
        "models": [{"source": str(tiny_model_folder), "stages": ["score"]}],
        "forecasters": [],
        "settings": {"score": {"prompts": {"source": str(prompts_file)}}},
    }
    config = validate(AuditConfig, settings)
    (step,) = all_steps(config, "n1")
    job = step.stage.job
    asked = validate(job.config_class, step.configuration(config.output, config.seed, {}, reuse=True))
    folder = RunFolder(config.output, job.name, step.run_id)
    request = request_digest(job.name, asked)
    assert request is not None
    folder.write_manifest(
        Manifest(job.name, step.run_id, asked.model_dump(mode="json"), 0, status="done", exit_code=0, request=request)
    )
    write_table(folder.storage, "stability", StabilityRow.schema().empty_table())
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def night(file: Path, run_id: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NIGHT.format(file=str(file), run_id=run_id)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_an_equal_run_is_used_without_torch_and_ray(file: Path, tiny_model_folder: Path) -> None:
    for number in (2, 3):  # the second night is no first one, and is a run of its own all the same
        ended = night(file, f"n{number}")
        assert ended.stdout.splitlines()[-1] == "0 []", ended.stdout + ended.stderr
        (result,) = StepStore(Storage(str(file.parent / f"runs/audit/n{number}"))).read().values()
        assert (result.status, result.run) == ("reused", str(file.parent / f"runs/score/n1.{tiny_model_folder.name}"))
        assert result.seconds < 15
        assert f"{tiny_model_folder.name}, score: reused in " in ended.stderr


def test_a_changed_input_is_no_equal_request(file: Path) -> None:
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    prompts = file.parent / "prompts.txt"
    prompts.write_text(Path(settings["settings"]["score"]["prompts"]["source"]).read_text(encoding="utf-8"))
    settings["settings"]["score"]["prompts"]["source"] = str(prompts)
    config = validate(AuditConfig, settings)
    (step,) = all_steps(config, "n1")
    asked = validate(step.stage.job.config_class, step.configuration(config.output, config.seed, {}, reuse=True))
    manifest = RunFolder(config.output, "score", step.run_id).read_manifest()
    assert manifest is not None
    assert request_digest("score", asked) != manifest.request
