"""The search job on a real local Ray, with a tiny model and tasks over words."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from selenium import webdriver

import stratoscope
from stratoscope.cli import main
from stratoscope.evaluation import Resampling, by_task, retained
from stratoscope.pipelines.search.pruning.store import EvaluationStore
from stratoscope.pruning import STRATEGY_NAMES
from stratoscope.results import Storage
from stratoscope.tables.pruning import (
    ComparisonRow,
    EvaluationRow,
    FrontRow,
    PruningTrialRow,
    SpeedRow,
)
from tests.jobs.small import command_line
from tests.pages import page_faults
from tests.tiny import tiny_network

pytestmark = pytest.mark.usefixtures("local_ray")
ROOT = Path(__file__).parents[2]
Fields = Callable[..., dict]
GRID = 2 * (2 * 2 + 2 + 2 + 1)
"""Candidates: at two ratios AVSS at two taps and thresholds, variance at two taps, two random draws, and one more."""
NO_EXPORT = {"random_sets": 0, "export": False}
TASKS = {
    "pick": (
        'output_type: multiple_choice\ndoc_to_text: "{{ q }}"\n'
        'doc_to_choice: "{{ choices }}"\ndoc_to_target: "{{ gold }}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    ),
    "read": (
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{ q }}"\n'
        "metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]\n"
    ),
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two local tasks over forty documents of words each, as YAML files."""
    folder = tmp_path_factory.mktemp("tasks")
    docs = [
        {
            "q": " ".join(f"w{(i * 11 + j * 5) % 100}" for j in range(3 + i % 6)) + f" w{i}",
            "choices": [f"w{i}", f"w{(i + 7) % 100} w{i}", f"w{(i * 3) % 100}"],
            "gold": i % 3,
        }
        for i in range(40)
    ]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, docs)) + "\n")
    for name, rest in TASKS.items():
        source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'docs.jsonl'}}}}}\n"
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{source}test_split: test\n{rest}")
    return [str(folder / f"{name}.yaml") for name in TASKS]


@pytest.fixture(scope="module")
def statistics(
    tiny_model_folder: Path, tasks: list[str], tmp_path_factory: pytest.TempPathFactory
) -> stratoscope.ScoreRun:
    """A score run whose prompts are among the documents of the tasks."""
    docs = Path(tasks[0]).parent / "docs.jsonl"
    return stratoscope.score(
        output=str(tmp_path_factory.mktemp("searches")),
        run_id="statistics",
        model={"source": str(tiny_model_folder)},
        prompts={"source": str(docs), "template": "{{ q }}", "limit": 12},
    )


@pytest.fixture(scope="module")
def fields(statistics: stratoscope.ScoreRun, tiny_model_folder: Path, tasks: list[str]) -> Fields:
    """Fields of a small search, any of them replaced."""

    def build(**changes: object) -> dict:
        base: dict = {
            "output": str(Path(statistics.path).parents[1]),
            "statistics": "statistics",
            "prompts": {"limit": 256},
            "model": {"source": str(tiny_model_folder)},
            "space": {"metrics": ["avss", "variance", "random", "perplexity_drop"], "ratios": [0.25, 0.5], "draws": 2},
            "evaluation": {"tasks": tasks, "limit": 16, "held_out": 12},
            "search": {"algorithm": "nsga2", "num_samples": 10, "concurrency": 1, "swaps": 6},
            "final": {"random_sets": 3, "export": False},
            "evaluators": {"cpus": 1, "max": 1},
        }
        return base | changes

    return build


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def finished(fields: Fields, mlflow_uri: str) -> stratoscope.SearchRun:
    return stratoscope.search(**fields(run_id="found", final={"random_sets": 3}, tracking={"mlflow": mlflow_uri}))


def without_times(run: stratoscope.SearchRun) -> list[dict]:
    """Rows of the trials without the columns that depend on the clock."""
    timed = ("tokens_per_s", "seconds", "speed", "speed_low", "speed_high")
    return [{k: v for k, v in row.items() if k not in timed} for row in run.table("trials").to_pylist()]


def test_tables_have_their_columns_and_the_front_is_one(finished: stratoscope.SearchRun) -> None:
    trials, front = finished.table("trials"), finished.front
    assert trials.schema.equals(PruningTrialRow.schema(["pick", "read"]))
    assert front.schema.equals(FrontRow.schema(["pick", "read"]))
    for name, row_type in (("evaluations", EvaluationRow), ("comparison", ComparisonRow), ("speed", SpeedRow)):
        assert finished.table(name).schema.equals(row_type.schema())
    rows = trials.to_pylist()
    assert [row["trial_id"] for row in rows] == [f"{i:04d}" for i in range(len(rows))]
    assert [row["origin"] for row in rows[:9]] == ["starting point"] * 8 + ["nsga2"]
    assert {row["status"] for row in rows} == {"done"}
    assert all(len(row["dropped_layers"]) in (1, 2) for row in rows)
    for row in front.to_pylist():
        larger = [r for r in rows if len(r["dropped_layers"]) >= len(row["dropped_layers"])]
        assert all(r["retention_raw"] <= row["retention_raw"] for r in larger)
    assert sum(row["chosen"] for row in front.to_pylist()) == 1
    assert all(row["parameters"] < finished.manifest.facts["parameters"] for row in rows)


def test_a_search_depends_on_all_that_its_statistics_depend_on(
    finished: stratoscope.SearchRun, statistics: stratoscope.ScoreRun
) -> None:
    own = statistics.manifest
    assert finished.manifest.fingerprints["statistics"] == own.input_digest
    for name in ("weights", "prompts", "activations"):
        assert replace(own, fingerprints=own.fingerprints | {name: "other"}).input_digest != own.input_digest


def test_retention_is_that_of_the_items_and_the_parts_are_disjoint(
    finished: stratoscope.SearchRun, statistics: stratoscope.ScoreRun
) -> None:
    evaluations = finished.table("evaluations").to_pylist()
    ids = {part: {r["item_id"] for r in evaluations if r["part"] == part} for part in ("search", "held_out")}
    calibrated = set(statistics.table("prompt_stats")["prompt_id"].to_pylist())
    assert not ids["search"] & ids["held_out"]
    assert not (ids["search"] | ids["held_out"]) & calibrated
    assert {len(ids["search"]), len(ids["held_out"])} == {16, 12}
    assert [t["calibrated"] for t in finished.manifest.facts["tasks"].values()] == [12, 12]

    def scores(dropped: list[int]) -> dict:
        rows = [r for r in evaluations if r["part"] == "search" and r["dropped_layers"] == dropped]
        table = pa.Table.from_pylist(rows, schema=EvaluationRow.schema())
        return by_task([row.to_score() for row in EvaluationRow.read(table)])

    base = scores([])
    for row in finished.table("trials").to_pylist():
        after = scores(row["dropped_layers"])
        raw = [retained(base[t], after[t], 0, Resampling()).raw.value for t in ("pick", "read")]
        assert row["retention_raw"] == pytest.approx(sum(raw) / 2)
        assert row["pick"] == pytest.approx(after["pick"].accuracy)


def test_the_checkpoint_and_its_card_show_what_was_dropped(finished: stratoscope.SearchRun) -> None:
    folder = Path(finished.exported or "")
    chosen = next(row for row in finished.front.to_pylist() if row["chosen"])
    assert folder.parent == Path(finished.path) / "models"
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 4 - len(chosen["dropped_layers"])
    card = (folder / "README.md").read_text()
    assert f"**{' '.join(map(str, chosen['dropped_layers']))}**" in card
    assert "| pick | acc |" in card
    assert [row["what"] for row in finished.table("speed").to_pylist()] == [
        "forward pass",
        "decoding",
        "memory of the weights",
    ]


def test_the_run_is_reported_and_logged(finished: stratoscope.SearchRun) -> None:
    path = Path(finished.path)
    page = (path / "report.html").read_text()
    for heading in (
        "All findings",
        "Retention by ratio",
        "Dropped layers",
        "Against random sets",
        "The exported checkpoint",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert list(path.glob("tune/trials/*/events.out.tfevents*"))
    assert not (path / "evaluations").exists()
    kinds = finished.table("comparison")["kind"].to_pylist()
    assert kinds.count("random") == 3 * 2
    assert len(finished.manifest.facts["verdicts"]) >= 2
    assert {"load", "search", "validate", "export"} <= finished.manifest.timings.keys()
    assert finished.manifest.counts["trials"] == finished.table("trials").num_rows


def test_the_page_has_no_faults(finished: stratoscope.SearchRun, browser: webdriver.Chrome) -> None:
    assert page_faults(browser, Path(finished.path, "report.html")) == []


def test_trials_are_in_mlflow_by_one_option(finished: stratoscope.SearchRun, mlflow_uri: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(mlflow_uri)
    logged = mlflow.search_runs(experiment_names=["stratoscope"], output_format="list")
    assert {run.data.tags["stratoscope.run_id"] for run in logged} == {"found"}
    objectives = [row["objective"] for row in finished.table("trials").to_pylist() if row["origin"] != "swap"]
    assert sorted(run.data.metrics["objective"] for run in logged) == pytest.approx(sorted(objectives))


@pytest.mark.slow
def test_a_killed_search_resumes_to_equal_tables_and_repeats_nothing(
    finished: stratoscope.SearchRun, fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = fields(run_id="killed")
    command = [sys.executable, str(ROOT / "jobs" / "search.py"), *command_line(killed)]
    options = {"env": os.environ | {"RAY_ADDRESS": ""}, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    store = EvaluationStore(Storage(killed["output"]).child("search", "killed"))
    process = subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload]
    deadline = time.monotonic() + 180
    while len(store) < 16:
        assert time.monotonic() < deadline, "no trial was finished"
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in store_files(killed)}
    assert len(before) >= 16
    after: dict[Path, int] = {}
    monkeypatch.setattr(
        EvaluationStore,
        "clear",
        lambda _store: after.update({path: path.stat().st_mtime_ns for path in store_files(killed)}),
    )
    again = stratoscope.search(**killed)
    assert len(after) > len(before)
    assert {path: after[path] for path in before} == before
    assert without_times(again) == without_times(finished)
    assert again.table("evaluations").sort_by("item_id").equals(finished.table("evaluations").sort_by("item_id"))


def store_files(fields: dict) -> list[Path]:
    return sorted(Path(fields["output"], "search", fields["run_id"], "evaluations").glob("*.parquet"))


def test_a_search_over_sets_keeps_its_budget_and_records_its_curve(fields: Fields) -> None:
    search = {
        "algorithm": "surrogate",
        "num_samples": 5,
        "rungs": [0.5, 1.0],
        "finalists": 2,
        "objective": "likelihood",
    }
    space = {"metrics": ["avss", "variance"], "ratios": [0.5]}
    run = stratoscope.search(**fields(run_id="surrogate", search=search, space=space, final=NO_EXPORT))
    rows = run.table("trials").to_pylist()
    tried = [row for row in rows if row["origin"] == "surrogate" and row["status"] == "stopped"]
    finalists = [row for row in rows if row["origin"] == "surrogate" and row["status"] == "done"]
    assert {row["metric"] for row in rows if row["origin"] == "starting point"} == {"avss", "variance"}
    assert len(tried) == len({tuple(row["dropped_layers"]) for row in tried}) == 5
    assert run.manifest.counts["surrogate_tries"] == 5
    assert {row["share_of_items"] for row in tried} == {0.5}
    best = [row["best_objective"] for row in tried]
    assert best == [max(row["objective"] for row in tried[: i + 1]) for i in range(5)]
    top = sorted(tried, key=lambda row: -row["objective"])[:2]
    assert [row["dropped_layers"] for row in finalists] == [row["dropped_layers"] for row in top]
    assert all(row["likelihood"] == row["objective"] for row in rows)
    assert "Progress of the search" in Path(run.path, "report.html").read_text()
    again = stratoscope.search(**fields(run_id="surrogate_again", search=search, space=space, final=NO_EXPORT))
    searched = ["trial_id", "origin", "dropped_layers", "objective", "best_objective", "retention_raw", "status"]
    assert again.table("trials").select(searched).equals(run.table("trials").select(searched))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", STRATEGY_NAMES)
def test_every_strategy_finds_a_front(algorithm: str, fields: Fields) -> None:
    search = {"algorithm": algorithm, "num_samples": 6, "rungs": [0.25, 1.0], "objective": "mixed"}
    run = stratoscope.search(**fields(run_id=f"strategy-{algorithm}", search=search, final=NO_EXPORT))
    rows = run.table("trials").to_pylist()
    assert {row["status"] for row in rows} == {"done", "stopped"}
    assert sum(row["chosen"] for row in run.front.to_pylist()) == 1
    assert run.manifest.counts[f"{algorithm}_tries"] <= 12


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["tpe", "grid", "greedy"])
def test_every_algorithm_finds_a_front(algorithm: str, fields: Fields) -> None:
    search = {"algorithm": algorithm, "num_samples": 8, "concurrency": 1, "rungs": [0.25, 0.5, 1.0], "swaps": 4}
    run = stratoscope.search(**fields(run_id=algorithm, search=search))
    rows = run.table("trials").to_pylist()
    assert {row["status"] for row in rows} <= {"done", "stopped"}
    greedy = [row for row in rows if row["origin"] == "greedy"]
    expected = {"tpe": 8, "grid": GRID, "greedy": 2}[algorithm]
    assert len([row for row in rows if row["origin"] != "swap"]) == expected
    assert bool(greedy) == (algorithm == "greedy")
    if algorithm == "tpe":
        assert {row["share_of_items"] for row in rows if row["status"] == "stopped"} <= {0.25, 0.5}
    assert sum(row["chosen"] for row in run.front.to_pylist()) == 1


@pytest.mark.slow
def test_sigterm_leaves_a_search_that_can_be_resumed(fields: Fields) -> None:
    stopped = fields(run_id="stopped", search={"algorithm": "grid", "concurrency": 1})
    command = [sys.executable, str(ROOT / "jobs" / "search.py"), *command_line(stopped)]
    store = EvaluationStore(Storage(stopped["output"]).child("search", "stopped"))
    process = subprocess.Popen(command, text=True, env=os.environ | {"RAY_ADDRESS": ""}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while len(store) < 14:
        assert time.monotonic() < deadline, "no trial was finished"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "stopped by SIGTERM" in error
    assert json.loads(Path(stopped["output"], "search", "stopped", "manifest.json").read_text())["status"] == "failed"
    again = stratoscope.search(**stopped)
    assert {row["status"] for row in again.table("trials").to_pylist()} == {"done"}
    assert again.table("trials").num_rows == GRID


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space.ratios", "0.9"], "leaves none of the 4 layers"),
        (["--space.ratios", "0.1"], "drops none of the 4 layers"),
        (["--evaluation.tasks", "scq"], "did you mean 'sciq'"),
        (["--statistics", "statistcs"], "did you mean 'statistics'"),
        (["--space.taps", "attention"], "has no tap attention"),
        (["--space.metrics", "angular_distance"], "has no spans of 1 layers"),
        (["--model.source", "OTHER"], "are of another model"),
        (["--final.path", "FULL"], "exists and is not empty"),
    ],
)
def test_invalid_input_is_refused_in_one_line(
    options: list[str], message: str, fields: Fields, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    if "OTHER" in options:
        tokenizer = Path(fields()["model"]["source"])
        tiny_network("llama", seed=7).save_pretrained(tmp_path / "other")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "other" / name).write_bytes((tokenizer / name).read_bytes())
    places = {"OTHER": str(tmp_path / "other"), "FULL": str(tmp_path / "full")}
    given = [places.get(option, option) for option in options]
    code = main(["search", *command_line(fields(run_id="refused")), *given])
    error = capsys.readouterr().err
    assert code == 2, error
    assert message in error
    assert error.count("\n") == 1
    assert not Path(fields()["output"], "search", "refused").exists()
