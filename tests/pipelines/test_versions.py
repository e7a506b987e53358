"""Runs that another version made: their configurations have a field more or less than this version's."""

from pathlib import Path
from typing import Any

import pytest

from stratoscope.errors import InputError
from stratoscope.pipelines.audit import AuditConfig
from stratoscope.pipelines.audit.previous_runs import latest_results
from stratoscope.pipelines.audit.steps import StepResult, StepStore
from stratoscope.pipelines.faithfulness import FaithfulnessConfig
from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.mitigation import MitigationConfig
from stratoscope.pipelines.runtime.config import JobConfig, result_settings
from stratoscope.pipelines.runtime.run_lookup import recorded_settings, refuse_unreadable, unknown_fields
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.search import SearchConfig
from stratoscope.results import Manifest, Run, Storage, write_table
from stratoscope.tables.audit import KeyMetricRow, StageRow

CONFIGS = [ScoreConfig, HallucinationConfig, SearchConfig, MitigationConfig, FaithfulnessConfig, AuditConfig]


def manifest(config: dict[str, Any], **fields: Any) -> Manifest:
    return Manifest("score", "old", config, 0, versions={"stratoscope": "0.0.9"}, **fields)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_the_settings_in_a_manifest_are_those_of_its_configuration(config_class: type[JobConfig]) -> None:
    config = config_class()
    recorded = recorded_settings(config_class, config.model_dump(mode="json"))
    assert set(recorded) == set(result_settings(config))
    assert recorded == recorded_settings(config_class, {}), "a field that a manifest lacks has its default"
    assert list(unknown_fields(config_class, config.model_dump(mode="json"))) == []


def test_unknown_fields_are_named_wherever_they_are() -> None:
    audit = AuditConfig().model_dump(mode="json")
    audit["models"][0]["colour"] = "red"
    audit["thresholds"]["gone"] = 1
    assert sorted(unknown_fields(AuditConfig, audit)) == ["models.colour", "thresholds.gone"]
    assert recorded_settings(AuditConfig, audit)["thresholds.gone"] == 1


def test_what_a_run_of_other_code_lacks_refuses_it_in_one_line(tmp_path: Path) -> None:
    run = Run(Storage(str(tmp_path)), manifest({}, code="other"))
    message = r"made by stratoscope 0\.0\.9, cannot be read .*KeyError: 'num_layers'"
    with pytest.raises(InputError, match=message), refuse_unreadable(run):
        run.manifest.facts["num_layers"]
    with pytest.raises(KeyError), refuse_unreadable(Run(run.storage, manifest({}))):
        run.manifest.facts["num_layers"]


def test_a_manifest_of_another_version_takes_nothing_from_this_one() -> None:
    old = Manifest.from_json(b'{"job": "score", "run_id": "old", "config": {}, "seed": 0, "status": "done", "new": 1}')
    assert (old.versions, old.git_commit, old.code, old.progress) == ({}, None, None, {})


def test_a_night_whose_version_did_not_measure_cpu_time_and_sizes_is_read(tmp_path: Path) -> None:
    night = Run(Storage(str(tmp_path)), Manifest("audit", "old", {}, 0))
    values: dict[str, Any] = dict.fromkeys(StageRow.schema().names)
    values |= {"model": "a", "stage": "score", "status": "done", "job": "score", "stage_run_id": "old.a"}
    written = StageRow.table([StageRow(**values | {"changed": (), "regressions": (), "figures": ()})])
    write_table(night.storage, "models", written.drop_columns(["cpu_hours", "bytes"]))
    write_table(night.storage, "figures", KeyMetricRow.table([]))
    (row,) = StageRow.read(night.table("models"))
    assert (row.cpu_hours, row.bytes) == (None, None)
    assert latest_results([night])["a", "score"].run_id == "old.a"


def test_a_step_whose_version_did_not_measure_cpu_time_and_sizes_is_not_run_again(tmp_path: Path) -> None:
    content = b'{"status": "done", "run": "runs/score/old.a", "seconds": 2.5, "error": null}'
    Storage(str(tmp_path)).write("steps/a.score.json", content)
    (result,) = StepStore(Storage(str(tmp_path))).read().values()
    assert result == StepResult("done", "runs/score/old.a", 2.5, None)
    assert result.cpu_hours is None
