"""An audit is checked whole before anything starts."""

from pathlib import Path

import pytest
import yaml

from stratoscope.pipelines.audit import AuditConfig, AuditJob
from stratoscope.pipelines.audit.steps import all_steps
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.launch import run_from_command_line


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        ({"models": [], "forecasters": []}, "name at least one"),
        ({"models": [{"source": "smolm2"}]}, "did you mean 'smollm2'"),
        ({"models": [{"source": "no/such/folder/here"}]}, "not a known name"),
        (
            {"models": [{"source": "smollm2", "stages": ["scoer"]}]},
            "smollm2: stages 'scoer' is no stage of a model; did you mean 'score'",
        ),
        ({"models": [{"source": "smollm2", "stages": ["faithfulness"]}]}, "no stage of a model"),
        ({"models": [{"source": "smollm2"}, {"source": "smollm2"}]}, "give one of them a name"),
        ({"models": [{"source": "smollm2", "revision": "main"}]}, "only hub names have revisions"),
        (
            {"models": [{"source": "smollm2", "overrides": {"search": {}}}]},
            "overrides.search: 'search' is none of its stages",
        ),
        ({"settings": {"serch": {}}}, "settings.serch"),
        (
            {"settings": {"score": {"prompts": {"limt": 3}}}},
            "smollm2, stage score: field 'prompts.limt' is unknown; did you mean 'prompts.limit'",
        ),
        ({"forecasters": [{"forecaster": "timeseive"}]}, "timeseive, stage faithfulness: grid.forecasters"),
        (
            {"settings": {"faithfulness": {"grid": {"forecasters": ["timesieve"]}}}},
            "field 'grid.forecasters' is the audit's own",
        ),
        (
            {"models": [{"source": "smollm2", "resources": {"gpus": 1}}], "schedule": {"gpu_hours": 3}},
            "give 'smollm2' resources.workers, too",
        ),
        ({"destinations": {"webhook": True}}, "STRATOSCOPE_WEBHOOK_URL"),
        ({"thresholds": {"level": 2}}, "thresholds.level 2"),
        ({"name": "a/b"}, "name 'a/b'"),
        ({"settings": {"score": {"model": 5}}}, "smollm2, stage score: model 5"),
        (
            {"settings": {"score": {"actors": {"gpus": 9999}}}},
            "smollm2, stage score: actors.gpus 9999 GPU",
        ),
        ({"models": [{"sorce": "x"}]}, "models.0.source: field required"),
        ({"models": [{"source": "smollm2", "stage": ["score"]}]}, "did you mean 'models.0.stages'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    audit: dict, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STRATOSCOPE_WEBHOOK_URL", raising=False)
    file = tmp_path / "audit.yaml"
    file.write_text(yaml.safe_dump(audit))
    code = run_from_command_line(AuditJob, ["--config", str(file), "--output", str(tmp_path / "runs")])
    captured = capfd.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not (tmp_path / "runs").exists()


def test_stages_come_after_those_that_they_stand_on_and_get_their_settings_in_order() -> None:
    config = validate(
        AuditConfig,
        {
            "models": [
                {
                    "source": "smollm2",
                    "name": "small <one>",
                    "stages": ["mitigation", "search", "hallucination", "score"],
                    "dtype": "bfloat16",
                    "resources": {"cpus": 2, "workers": 3},
                    "overrides": {"score": {"prompts": {"limit": 5}}},
                }
            ],
            "forecasters": [],
            "seed": 7,
            "settings": {"score": {"prompts": {"limit": 9, "source": "sst2"}}},
        },
    )
    steps = all_steps(config, "night")
    keys = [step.key for step in steps]
    assert sorted(keys) == [f"small-one.{name}" for name in ("hallucination", "mitigation", "score", "search")]
    assert keys.index("small-one.score") < keys.index("small-one.search")
    assert keys.index("small-one.hallucination") < keys.index("small-one.mitigation")
    score = next(step for step in steps if step.stage.name == "score")
    assert score.run_id == "night.small-one"
    settings = score.configuration("runs", 7, {}, reuse=True)
    assert settings["prompts"] == {"limit": 5, "source": "sst2"}
    assert settings["model"] == {"source": "smollm2", "dtype": "bfloat16"}
    assert settings["actors"] == {"cpus": 2, "max": 3}
    assert (settings["seed"], settings["reuse"], settings["run_id"]) == (7, True, "night.small-one")
    search = next(step for step in steps if step.stage.name == "search")
    assert search.configuration("runs", 7, {"score": "runs/score/x"}, reuse=True)["statistics"] == "runs/score/x"


def test_a_dry_run_lists_the_stages_and_does_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_from_command_line(AuditJob, ["--output", str(tmp_path / "runs"), "--dry_run"]) == 0
    output = capfd.readouterr().out
    assert "smollm2, score: for the first time" in output
    assert "dlinear, faithfulness: for the first time" in output
    assert not (tmp_path / "runs").exists()
