"""The mitigation job on a real local Ray, Ray Train and DeepSpeed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray
import torch
from selenium import webdriver

import stratoscope
from stratoscope.errors import RunError
from stratoscope.evaluation import TextSampling, sample_texts
from stratoscope.models import load_model
from stratoscope.pipelines.mitigation import MitigationJob
from stratoscope.pipelines.runtime.launch import run_from_command_line
from stratoscope.tables.mitigation import TABLES
from tests.jobs.reacting import pairs_file, reacting_model
from tests.pages import page_faults

__all__ = ["pairs_file", "reacting_model"]
ROOT = Path(__file__).parents[2]
Fields = Callable[..., dict]


@pytest.fixture(scope="module")
def fields(
    reacting_model: Path, pairs_file: Path, prompts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Fields:
    output = tmp_path_factory.mktemp("mitigation")

    def build(**changes: object) -> dict:
        base = {
            "output": str(output),
            "model": {"source": str(reacting_model)},
            "layers": "1,2",
            "pairs": {"source": [str(pairs_file)], "limit": 12},
            "texts": {"source": [str(prompts_file)], "limit": 24, "max_tokens": 12},
            "train": {
                "max_steps": 6,
                "questions": 12,
                "learning_rate": 0.003,
                "checkpoint_every": 2,
                "num_workers": 1,
            },
            "evaluation": {"limit": 8, "only": ["second"], "text": str(prompts_file)},
        }
        return base | changes

    return build


@pytest.fixture(scope="module")
def run(fields: Fields, local_ray: None) -> stratoscope.MitigationRun:  # noqa: ARG001
    return stratoscope.mitigate(**fields(run_id="trained"))


def test_tables_have_a_row_for_every_step_model_and_metric(run: stratoscope.MitigationRun) -> None:
    for name, row_type in TABLES.items():
        if name not in ("tuning", "samples"):
            assert run.table(name).schema.equals(row_type.schema()), name
    steps = run.table("training").to_pylist()
    assert [(s["variant"], s["step"]) for s in steps] == [("given", step) for step in range(1, 7)]
    assert all(s["contrastive"] is not None and s["text"] is None for s in steps)
    learning_rates = [s["learning_rate"] for s in steps]
    assert max(learning_rates) <= 0.003
    assert learning_rates[-1] < 0.001
    (variant,) = run.table("variants").to_pylist()
    assert variant["layers"] == [1, 2]
    assert variant["steps"] == 6
    assert not variant["diverged"]
    assert variant["peak_memory_bytes"] > 10**8
    evaluation = run.evaluation.to_pylist()
    assert {r["variant"] for r in evaluation} == {"base", "given"}
    assert {(r["dataset"], r["metric"]) for r in evaluation} == {
        *((d, m) for d in ("first", "second") for m in ("mc1", "mc2", "pairwise")),
        ("prompts", "perplexity"),
    }
    assert all(r["ci_low"] <= r["difference"] <= r["ci_high"] for r in evaluation)
    separation = run.table("separation").to_pylist()
    assert [(s["variant"], s["dataset"], s["layer"]) for s in separation] == [
        (variant, dataset, layer)
        for variant in ("base", "given")
        for dataset in ("second", "first")
        for layer in range(4)
    ]
    assert run.table("errors").num_rows == 0


def test_the_comparison_with_the_base_is_corrected_for_the_data_sets(run: stratoscope.MitigationRun) -> None:
    rows = [r for r in run.table("comparison").to_pylist() if r["metric"] == "mc2"]
    assert [(r["variant"], r["other"]) for r in rows] == [("given", "base")] * 3
    own, mean = rows[:2], rows[2]
    assert mean["dataset"] is None
    assert mean["difference"] == pytest.approx(sum(r["difference"] for r in own) / 2)
    smallest = min(own, key=lambda r: r["p_value"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, 2 * smallest["p_value"]))
    assert all(r["relative"] == pytest.approx(r["mean"] / r["other_mean"] - 1) for r in rows)


def test_curves_are_written_for_tensorboard(run: stratoscope.MitigationRun) -> None:
    (file,) = Path(run.path, "tensorboard", "given-0").iterdir()
    content = file.read_bytes()
    assert all(name in content for name in (b"loss/contrastive", b"training/learning_rate"))


def test_every_step_of_the_same_questions_loses_less(run: stratoscope.MitigationRun) -> None:
    steps = run.table("training").to_pylist()
    for term in ("contrastive", "margin", "likelihood", "loss"):
        assert steps[-1][term] < steps[0][term], term
    assert steps[0]["forgetting"] == pytest.approx(0, abs=1e-6)


def test_no_evaluated_question_was_trained_on(run: stratoscope.MitigationRun) -> None:
    counts = run.manifest.facts["questions"]
    assert counts["first"] == {"trained": 12, "validated": 0, "held_out": 8, "left_out": 0, "unreadable": 0}
    assert counts["second"] == {"trained": 0, "validated": 0, "held_out": 8, "left_out": 0, "unreadable": 0}
    item_ids = {r["item_id"] for r in run.table("items").to_pylist() if r["metric"] == "mc1"}
    assert len(item_ids) == 16
    truncated = {task["name"]: (task["number"], task["total"]) for task in run.manifest.facts["truncated"]}
    assert truncated == {"first": (0, 8), "second": (0, 8)}


def test_the_checkpoint_is_the_model_with_trained_layers_and_nothing_else_changed(
    run: stratoscope.MitigationRun, reacting_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    (url,) = run.models
    trained, base = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (url, reacting_model))
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    assert {name.split(".")[2] for name in changed} == {"1", "2"}
    assert run.manifest.facts["frozen_tensors"] > 0
    card = Path(url, "README.md").read_text()
    assert "Layers trained" in card
    assert "| second | mc2 |" in card
    assert Path(run.path, "report.html").stat().st_size > 100_000
    assert not Path(run.path, "variants").exists()
    assert not Path(run.path, "training").exists()


def test_the_page_has_no_faults(run: stratoscope.MitigationRun, browser: webdriver.Chrome) -> None:
    assert page_faults(browser, Path(run.path, "report.html")) == []


def test_a_finished_run_is_not_made_again(fields: Fields, run: stratoscope.MitigationRun) -> None:
    before = Path(run.path, "training.parquet").stat().st_mtime_ns
    again = stratoscope.mitigate(**fields(run_id="trained"))
    assert Path(again.path, "training.parquet").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--layers", "2,9"], "there is no layer 9"),
        (["--layers", "nowhere"], "no folder of a hallucination run"),
        (["--drop", "0,1,2,3"], "leaves none"),
        (["--layers", "1", "--evaluation.only", "third"], "has no data set 'third'; it has second, first"),
        (["--layers", "1", "--objective.forgetting", "0", "--objective.margin", "-1"], "objective.margin"),
        (["--layers", "1", "--train.questions", "1", "--train.num_workers", "2"], "must be at least one for each"),
        pytest.param(["--layers", "1", "--evaluation.tasks", "scqi"], "did you mean", marks=pytest.mark.slow),
        (
            ["--layers", "1", "--evaluation.limit", "8", "--train.questions", "1000000000"],
            "training needs at least",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, fields: Fields, capsys: pytest.CaptureFixture[str]
) -> None:
    base = fields()
    given = ["--model.source", base["model"]["source"], "--pairs.source", base["pairs"]["source"][0]]
    given += ["--texts.source", base["texts"]["source"][0], "--output", base["output"]]
    assert run_from_command_line(MitigationJob, [*given, *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


@pytest.mark.slow
def test_a_killed_worker_is_followed_by_another_that_reaches_the_same_loss(
    fields: Fields, run: stratoscope.MitigationRun
) -> None:
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        folder = Path(run.path).parent / "killed" / "training"
        while time.monotonic() < deadline and not killed:
            workers = [p for p in psutil.process_iter(["cmdline"]) if _trains(p)]
            if workers and list(folder.rglob("steps.json")):
                killed.append(workers[0].pid)
                workers[0].send_signal(signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    long = fields()["train"] | {"max_steps": 40}
    disturbed = stratoscope.mitigate(**fields(run_id="killed", train=long))
    thread.join()
    assert killed
    undisturbed = stratoscope.mitigate(**fields(run_id="alone", train=long))
    assert _losses(disturbed) == pytest.approx(_losses(undisturbed), abs=1e-3)


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_another(fields: Fields, run: stratoscope.MitigationRun) -> None:
    options = fields(run_id="driver", compare=["flagged", "random"])
    script = "import json, sys, stratoscope; stratoscope.mitigate(**json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", script, json.dumps(options)]
    process = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": ""})
    folder = Path(run.path).parent / "driver"
    deadline = time.monotonic() + 240
    while not (folder / "variants" / "given-0.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    seconds = json.loads((folder / "variants" / "given-0.json").read_text())["seconds"]
    process.kill()
    process.wait()
    time.sleep(1)
    again = stratoscope.mitigate(**options)
    assert again.manifest.status == "done"
    assert _losses(again)[:6] == pytest.approx(_losses(run), abs=1e-3)
    variants = again.table("variants").to_pylist()
    assert [v["layers"] for v in variants] == [[1, 2], [0, 3]]
    assert variants[0]["trained_parameters"] == variants[1]["trained_parameters"]
    comparison = [c for c in again.table("comparison").to_pylist() if c["other"] != "base"]
    assert {(c["variant"], c["other"]) for c in comparison} == {("given", "random")}
    assert {c["dataset"] for c in comparison if c["metric"] == "mc2"} == {"first", "second", None}
    assert variants[0]["seconds"] == seconds


@pytest.mark.slow
def test_sigterm_keeps_a_checkpoint_from_which_the_same_run_resumes(
    fields: Fields, run: stratoscope.MitigationRun
) -> None:
    options = fields(run_id="stopped", train=fields()["train"] | {"max_steps": 60, "checkpoint_every": 50})
    file = Path(run.path).parent / "options.json"
    file.write_text(json.dumps(options))
    command = [sys.executable, str(ROOT / "jobs" / "mitigation.py"), "--config", str(file)]
    process = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": ""}, stderr=subprocess.PIPE, text=True)
    curves = Path(run.path).parent / "stopped" / "tensorboard"
    deadline = time.monotonic() + 240
    # Its curves begin with the first step.
    while not list(curves.rglob("events*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "stopped by SIGTERM during training" in stderr
    steps = list((Path(run.path).parent / "stopped" / "training").rglob("steps.json"))
    assert steps
    made = json.loads(steps[-1].read_text())
    assert len(made) < 50
    again = stratoscope.mitigate(**options)
    kept = again.table("training").to_pylist()[: len(made)]
    assert [row["tokens_per_s"] for row in kept] == [row["tokens_per_s"] for row in made]
    undisturbed = stratoscope.mitigate(**(options | {"run_id": "unstopped"}))
    assert _losses(again) == pytest.approx(_losses(undisturbed), abs=1e-3)


@pytest.mark.slow
def test_a_training_that_fails_loses_no_other(fields: Fields, run: stratoscope.MitigationRun) -> None:
    training = Path(run.path).parent / "obstructed" / "training"
    training.mkdir(parents=True)
    # A file where one variant's checkpoints were to go.
    (training / "random-0").write_text("in the way")
    result = stratoscope.mitigate(**fields(run_id="obstructed", compare=["flagged", "random"]))
    assert [v["variant"] for v in result.table("variants").to_pylist()] == ["given"]
    (error,) = result.table("errors").to_pylist()
    assert (error["variant"], error["seed"]) == ("random", 0)
    assert result.manifest.counts["failed"] == 1
    assert "Training failed due to" not in error["error"]
    assert any("random-0 failed" in line for line in result.manifest.facts["verdicts"])


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_a_training_at_once(fields: Fields, run: stratoscope.MitigationRun) -> None:
    wild = fields()["train"] | {"learning_rate": 1e6, "weight_decay": 1e6, "warmup": 0}
    with pytest.raises(RunError, match="its loss became non-finite"):
        stratoscope.mitigate(**fields(run_id="wild", train=wild))
    manifest = json.loads((Path(run.path).parent / "wild" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["exit_code"] == 1


@pytest.mark.slow
def test_layers_come_from_a_hallucination_run_of_its_own_and_a_search_chooses(
    fields: Fields,
    local_ray: None,  # noqa: ARG001
) -> None:
    options = fields(run_id="searched", layers=None, flags={"num_layers": 1})
    options["tune"] = {"num_samples": 3, "learning_rates": [0.001, 0.003], "temperatures": [0.1, 0.5], "limit": 6}
    options["pairs"] = options["pairs"] | {"limit": 20}
    run = stratoscope.mitigate(**options)
    rows = run.table("tuning").to_pylist()
    assert run.table("tuning").schema.equals(TABLES["tuning"].schema())
    assert len(rows) == 3
    assert sum(r["chosen"] for r in rows) == 1
    best = max((r for r in rows if r["reports"] == 2), key=lambda r: r["objective"])
    assert best["chosen"]
    (variant,) = run.table("variants").to_pylist()
    assert variant["learning_rate"] == best["learning_rate"]
    assert len(variant["layers"]) == 1
    assert run.manifest.facts["questions"]["first"]["validated"] == 6
    # Nothing is reserved any more for trials that were stopped.
    deadline = time.monotonic() + 30
    while any(group["state"] != "REMOVED" for group in ray.util.placement_group_table().values()):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_pruned_model_recovers(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    options = fields(run_id="recovered", layers=None, drop="1")
    options["train"] = options["train"] | {"max_steps": 30}
    run = stratoscope.mitigate(**options)
    assert not run.storage.exists("samples.parquet")
    steps = run.table("training").to_pylist()
    assert steps[-1]["forgetting"] < steps[0]["forgetting"]
    assert steps[0]["contrastive"] is None
    rows = {(r["variant"], r["dataset"]): r for r in run.evaluation.to_pylist()}
    recovered, pruned = rows["given", "prompts"], rows["given, not recovered", "prompts"]
    assert recovered["after"] < pruned["after"]
    (url,) = run.models
    assert json.loads(Path(url, "config.json").read_text())["num_hidden_layers"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["whole", "lora"])
def test_a_pruned_model_recovers_on_texts_that_the_whole_one_generates(
    method: str,
    fields: Fields,
    reacting_model: Path,
    local_ray: None,  # noqa: ARG001
) -> None:
    options = fields(run_id=f"generated-{method}", layers=None, drop="1", objective={"hidden": 1.0, "text": 0})
    options["texts"] = {"source": [], "max_tokens": 12}
    options["samples"] = {"number": 24}
    options["parameters"] = {"method": method}
    options["train"] = options["train"] | {"max_steps": 30}
    run = stratoscope.mitigate(**options)
    steps = run.table("training").to_pylist()
    assert steps[-1]["forgetting"] < steps[0]["forgetting"]
    assert steps[-1]["hidden"] < steps[0]["hidden"]
    expected = sample_texts(load_model(str(reacting_model), head=True), TextSampling(24, 12))
    assert [tuple(s["tokens"]) for s in run.samples.to_pylist()] == expected
    assert run.manifest.facts["samples"] == len(expected) > 12
    (variant,) = run.variants.to_pylist()
    assert variant["tokens"] == sum(step["tokens"] for step in steps)
    assert 0 < variant["step_seconds"] < variant["seconds"]


def _losses(run: stratoscope.MitigationRun) -> list[float]:
    return [row["loss"] for row in run.table("training").to_pylist()]


def _trains(process: psutil.Process) -> bool:
    return "RayTrainWorker" in " ".join(process.info["cmdline"] or [])
