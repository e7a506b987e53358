import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pytest
from pydantic import BaseModel

import stratoscope
from stratoscope import api, config
from stratoscope.api import configured
from stratoscope.pipelines.jobs import JOBS
from stratoscope.results import Manifest, RunFolder
from stratoscope.results.parquet import write_table
from stratoscope.results.run import ROWS_SHOWN, TableProperty
from stratoscope.runs import RUN_CLASSES

FUNCTIONS = {
    "score": api.score,
    "search": api.search,
    "hallucination": api.detect_hallucination,
    "mitigation": api.mitigate,
    "faithfulness": api.evaluate_faithfulness,
    "audit": api.audit,
}


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A run of every job, and one of a job of another package."""
    for job in (*JOBS, "width"):
        folder = RunFolder(str(tmp_path), job, f"{job}-1")
        folder.write_manifest(Manifest(job, f"{job}-1", {}, 0, status="done", exit_code=0))
    rows = pa.table({"layer": range(30), "score": [0.123456] * 30, "note": ["<b>&"] * 30, "log2_hist": [b"x"] * 30})
    storage = RunFolder(str(tmp_path), "score", "score-1").storage
    write_table(storage, "layer_scores", rows)
    storage.write("report.html", b"<html></html>")
    return str(tmp_path)


@pytest.mark.parametrize("job", JOBS)
def test_a_run_opens_as_the_class_of_its_job(job: str, output: str) -> None:
    for name in (f"{job}-1", f"{output}/{job}/{job}-1"):
        run = stratoscope.open_run(name, output)
        assert type(run) is RUN_CLASSES[job]
        assert (run.path, run.manifest.job) == (f"{output}/{job}/{job}-1", job)
    assert type(run).__name__ in stratoscope.__all__
    assert run.report_path == f"{run.path}/report.html"
    assert isinstance(vars(type(run))[type(run).main_table or ""], TableProperty)


def test_a_run_of_another_packages_job_opens_too(output: str) -> None:
    assert type(stratoscope.open_run("width-1", output)) is stratoscope.Run
    assert "width-1" in stratoscope.open_run("width-1", output)._repr_html_()


def test_a_run_that_does_not_exist_is_refused(output: str) -> None:
    with pytest.raises(stratoscope.InputError, match="did you mean 'score-1'"):
        stratoscope.open_run("score-2", output)


def test_runs_are_listed_as_the_classes_of_their_jobs(output: str) -> None:
    runs = stratoscope.list_runs(output)
    assert [run.manifest.job for run in runs] == sorted([*JOBS, "width"])
    (run,) = stratoscope.list_runs(output, "score")
    assert isinstance(run, stratoscope.ScoreRun)
    assert repr(run) == f"<ScoreRun score-1: score, done, {output}/score/score-1>"
    assert stratoscope.list_runs(f"{output}/nothing") == []


def test_tables_are_properties(output: str) -> None:
    run = stratoscope.open_run("score-1", output)
    assert isinstance(run, stratoscope.ScoreRun)
    assert run.tables == ["layer_scores"]
    assert run.layer_scores.equals(run.table("layer_scores"))
    assert list(run.layer_scores.to_pandas()["layer"]) == list(range(30))
    with pytest.raises(FileNotFoundError, match="no table 'stability'; its tables: layer_scores"):
        _ = run.stability
    for run_class in RUN_CLASSES.values():
        for name, value in vars(run_class).items():
            if isinstance(value, TableProperty):
                assert getattr(run_class, name).__doc__


def test_a_notebook_shows_the_main_table_escaped_and_cut(output: str) -> None:
    shown = stratoscope.open_run("score-1", output)._repr_html_()
    assert f"layer_scores: {ROWS_SHOWN} of 30 rows" in shown
    assert shown.count("<tr>") == ROWS_SHOWN + 1
    assert "&lt;b&gt;&amp;" in shown
    assert "<b>&" not in shown
    assert "0.1235" in shown
    assert "log2_hist" not in shown
    assert "report.html" in shown


@pytest.mark.parametrize("job", JOBS)
def test_every_function_takes_its_configuration_and_returns_its_run(job: str) -> None:
    function, config_class = FUNCTIONS[job], JOBS[job].config_class
    assert function.__name__ in stratoscope.__all__
    assert getattr(stratoscope, function.__name__) is function
    hints = get_type_hints(function)
    assert hints["config"] == config_class | None
    assert hints["return"] is RUN_CLASSES[job]
    assert inspect.signature(function).parameters["config"].default is None
    assert f"`stratoscope {job}`" in (function.__doc__ or "")


def sections(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield all configuration classes within an annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)
    for argument in get_args(kind):
        yield from sections(argument)


def test_all_configuration_classes_are_exported_and_documented() -> None:
    classes = {kind for job in JOBS.values() for kind in sections(job.config_class)}
    assert {kind.__name__ for kind in classes} == set(config.__all__)
    for kind in classes:
        assert getattr(config, kind.__name__) is kind
        assert kind.__doc__
        assert all(field.description for field in kind.model_fields.values()), kind
    for job in JOBS.values():
        assert getattr(stratoscope, job.config_class.__name__) is job.config_class


def test_overrides_change_a_configuration() -> None:
    base = config.ScoreConfig(seed=3, prompts=config.PromptsSection(limit=7))
    changed = configured(config.ScoreConfig, base, {"prompts": {"source": "boolq"}, "run_id": "a"})
    assert (changed.seed, changed.run_id) == (3, "a")
    assert (changed.prompts.source, changed.prompts.limit) == ("boolq", 7)
    replaced = configured(config.ScoreConfig, base, {"prompts": config.PromptsSection(source="boolq")})
    assert replaced.prompts.limit == 256
    assert configured(config.ScoreConfig, None, {}) == config.ScoreConfig()
    with pytest.raises(stratoscope.InputError, match=r"did you mean 'prompts\.limit'"):
        configured(config.ScoreConfig, None, {"prompts": {"limt": 3}})
    with pytest.raises(stratoscope.InputError, match="config must be a ScoreConfig, not a SearchConfig"):
        stratoscope.score(config.SearchConfig())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new"), [("hallucination", "detect_hallucination"), ("faithfulness", "evaluate_faithfulness")]
)
def test_the_old_names_are_deprecated_aliases(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(api, new, lambda **overrides: calls.append(overrides))
    with pytest.warns(DeprecationWarning, match=f"use stratoscope.{new}") as warned:
        getattr(stratoscope, old)(seed=3)
    assert calls == [{"seed": 3}]
    assert warned[0].filename == __file__


def test_every_public_name_can_be_imported() -> None:
    assert sorted(stratoscope.__all__) == sorted(set(stratoscope.__all__))
    for name in stratoscope.__all__:
        assert getattr(stratoscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'scoer'"):
        _ = stratoscope.scoer
