"""The faithfulness job on a real local Ray."""

import html
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.common.by import By

import stratoscope
from stratoscope.pipelines.faithfulness import FaithfulnessJob
from stratoscope.pipelines.runtime.launch import run_from_command_line
from stratoscope.results import Manifest, RunFolder
from stratoscope.tables.faithfulness import TABLES
from tests.pages import open_page, page_faults

Fields = Callable[..., dict]
NEWEST_FIRST = "rows were newest first by 'date' and are turned round"
STEP = "2020-01-01 to 2020-01-25 23:00:00 by 'date', step 1 hour"
KEYS = ("dataset", "forecaster", "training", "seed", "horizon")


@pytest.fixture(scope="module")
def series_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred hours of two noisy waves, newest first."""
    generator = np.random.default_rng(0)
    time_of = np.arange(600)
    columns = [np.sin(time_of / 3), 5 + 2 * np.cos(time_of / 5)]
    rows = np.stack(columns, axis=1) + 0.1 * generator.standard_normal((600, 2))
    path = tmp_path_factory.mktemp("series") / "waves.csv"
    hours = [datetime(2020, 1, 1) + timedelta(hours=hour) for hour in range(600)]
    points = [f"{hour},{a:.5f},{b:.5f}" for hour, (a, b) in zip(hours, rows, strict=True)]
    lines = ["date,a,b", *reversed(points)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fields(series_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Fields:
    output = tmp_path_factory.mktemp("faithfulness")

    def build(**changes: object) -> dict:
        base = {
            "output": str(output),
            "series": {"source": [str(series_file)]},
            "grid": {
                "forecasters": ["timesieve", "dlinear", "last_value"],
                "seeds": [1, 2, 3],
                "horizons": [8],
                "levels": [0.0, 0.2],
            },
            "fit": {"epochs": 3, "faithful_epochs": 2, "learning_rate": 0.001},
            "faithful": {"steps": 4},
            "worst": {"windows": 8, "steps": 4},
        }
        return base | changes

    return build


@pytest.fixture(scope="module")
def run(fields: Fields, local_ray: None) -> stratoscope.FaithfulnessRun:  # noqa: ARG001
    return stratoscope.evaluate_faithfulness(**fields(run_id="grid"))


def test_every_cell_is_measured_under_every_perturbation(run: stratoscope.FaithfulnessRun) -> None:
    for name, row_type in TABLES.items():
        assert run.table(name).schema.equals(row_type.schema()), name
    rows = run.cells.to_pylist()
    models = {(r["forecaster"], r["training"]) for r in rows}
    assert models == {
        *((f, t) for f in ("timesieve", "dlinear") for t in ("plain", "faithful")),
        ("last_value", "plain"),
    }
    perturbations = {r["perturbation"] for r in rows if r["forecaster"] == "timesieve"}
    assert perturbations == {"none", "gaussian", "residual", "missing", "parameter", "adversarial"}
    assert {r["perturbation"] for r in rows if r["forecaster"] == "dlinear"} == perturbations - {"parameter"}
    assert all(r["status"] == "done" and r["mae"] > 0 for r in rows)
    assert len(rows) == 3 * (2 * 6 + 2 * 5 + 5)


def test_what_was_done_to_a_series_stands_in_the_manifest_and_the_terminal(run: stratoscope.FaithfulnessRun) -> None:
    facts = run.manifest.facts["series"]["waves"]
    assert facts["notes"] == [NEWEST_FIRST]
    assert facts["time"]["step"] == "1 hour"
    console = Console(file=io.StringIO(), width=80)
    FaithfulnessJob.show(run, console)
    text = console.file.getvalue()
    assert f"note on waves: {NEWEST_FIRST}" in text
    assert STEP in text


def test_a_forecaster_without_weights_has_no_spread_over_seeds(run: stratoscope.FaithfulnessRun) -> None:
    spreads = {(r["forecaster"], r["training"], r["metric"]): r for r in run.table("spreads").to_pylist()}
    assert spreads["last_value", "plain", "mse"]["deviation"] == pytest.approx(0, abs=1e-12)
    assert spreads["timesieve", "plain", "mse"]["deviation"] > 0
    assert spreads["timesieve", "faithful", "mse"]["preference"] is not None
    assert any("last_value, plain" in v and "survives another seed" in v for v in run.verdicts)


def test_attacks_cost_more_than_noise_of_the_same_size(run: stratoscope.FaithfulnessRun) -> None:
    rows = {(r["forecaster"], r["training"], r["seed"], r["perturbation"]): r["mae"] for r in run.cells.to_pylist()}
    for forecaster in ("timesieve", "dlinear"):
        for seed in (1, 2, 3):
            errors = {p: rows[forecaster, "plain", seed, p] for p in ("none", "gaussian", "adversarial")}
            assert errors["adversarial"] > errors["none"]
            assert errors["adversarial"] > errors["gaussian"]


def test_worst_cases_are_null_without_a_bottleneck_or_teacher(run: stratoscope.FaithfulnessRun) -> None:
    rows = {
        (r["forecaster"], r["training"], r["condition"]): r["value"]
        for r in run.table("worst_case").to_pylist()
        if r["norm"] in (None, "linf") and r["goal"] in (None, "own")
    }
    assert rows["timesieve", "plain", "sib"] > 0
    assert rows["dlinear", "plain", "sib"] is None
    assert rows["timesieve", "plain", "cps"] is None
    assert rows["timesieve", "faithful", "cps"] > 0
    goals = {(r["condition"], r["goal"]) for r in run.table("worst_case").to_pylist()}
    assert goals == {(c, g) for c in ("sib", "snp") for g in ("own", "conditions", "error")} | {("cps", None)}


def test_forecasts_are_in_the_units_of_the_series(run: stratoscope.FaithfulnessRun) -> None:
    rows = [r for r in run.table("forecasts").to_pylist() if r["channel"] == "b"]
    assert 2 < min(r["truth"] for r in rows) < max(r["truth"] for r in rows) < 8
    ahead = [r for r in rows if r["value"] is not None]
    assert {r["step"] for r in ahead} == set(range(1, 9))
    assert 1 < min(r["value"] for r in ahead) < max(r["value"] for r in ahead) < 9


def test_results_do_not_depend_on_parallelism_or_order(fields: Fields, run: stratoscope.FaithfulnessRun) -> None:
    grid = fields()["grid"] | {"forecasters": ["dlinear", "timesieve"], "seeds": [3, 1], "cpus": 0.5}
    again = stratoscope.evaluate_faithfulness(**fields(run_id="order", grid=grid))

    def numbers(finished: stratoscope.FaithfulnessRun) -> dict:
        rows = [r for r in finished.cells.to_pylist() if r["forecaster"] != "last_value" and r["seed"] != 2]
        return {(*(r[k] for k in KEYS), r["perturbation"], r["level"]): (r["mae"], r["mse"], r["moved"]) for r in rows}

    assert numbers(again) == numbers(run)


def test_faithful_training_is_compared_with_longer_plain_training(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    grid = fields()["grid"] | {"forecasters": ["dlinear"], "trainings": ["plain", "longer", "faithful"]}
    result = stratoscope.evaluate_faithfulness(**fields(run_id="longer", grid=grid | {"perturbations": ["gaussian"]}))
    rows = result.table("differences").to_pylist()
    pairs = {(r["training"], r["other"]) for r in rows}
    assert pairs == {("longer", "plain"), ("faithful", "plain"), ("faithful", "longer")}
    epochs = result.table("epochs").to_pylist()
    assert {t: max(r["epoch"] for r in epochs if r["training"] == t) for t in ("longer", "faithful")} == {
        "longer": 2,
        "faithful": 2,
    }
    clean = {(r["training"], r["seed"]): r["mae"] for r in result.cells.to_pylist() if r["perturbation"] == "none"}
    difference = next(
        r for r in rows if (r["training"], r["other"], r["metric"], r["level"]) == ("faithful", "longer", "mae", 0.0)
    )
    expected = np.mean([clean["faithful", seed] - clean["longer", seed] for seed in (1, 2, 3)])
    assert difference["difference"] == pytest.approx(expected)
    assert difference["ci_low"] < difference["difference"] < difference["ci_high"]


@pytest.fixture(scope="module")
def designs(fields: Fields, local_ray: None) -> stratoscope.FaithfulnessRun:  # noqa: ARG001
    """All trainings that differ in start, teacher or ascent, of a forecaster that is quickly trained."""
    trainings = ["plain", "longer", "distilled", "faithful", "distilled_to_first", "faithful_to_first"]
    trainings += ["longer_from_first", "distilled_from_first", "faithful_from_first"]
    grid = fields()["grid"] | {"forecasters": ["dlinear"], "trainings": trainings, "perturbations": ["gaussian"]}
    return stratoscope.evaluate_faithfulness(
        **fields(run_id="designs", grid=grid, faithful={"steps": 4, "cps": 20.0}, series=fields()["series"])
    )


def test_seeds_that_start_from_one_forecaster_hardly_differ(designs: stratoscope.FaithfulnessRun) -> None:
    rows = designs.deviation_ratios.to_pylist()
    ratios = {(r["training"], r["other"]): r for r in rows if r["metric"] == "mse"}
    assert len(ratios) == 9 * 8 / 2
    for training in ("longer_from_first", "distilled_from_first", "faithful_from_first"):
        assert ratios[training, "longer"]["ratio"] < ratios[training, "longer"]["ci_high"] < 1
    # A strict teacher of the same seed keeps what differs between seeds.
    assert ratios["distilled", "longer"]["ratio"] > 0.5
    spreads = {r["training"]: r["deviation"] for r in designs.spreads.to_pylist() if r["metric"] == "mse"}
    row = ratios["faithful", "distilled"]
    assert row["ratio"] == pytest.approx(spreads["faithful"] / spreads["distilled"])
    assert row["ci_low"] < row["ratio"] < row["ci_high"]


def test_the_first_seed_is_its_own_start_and_teacher(designs: stratoscope.FaithfulnessRun) -> None:
    errors = {(r["training"], r["seed"], r["perturbation"]): r["mae"] for r in designs.cells.to_pylist()}
    for own in ("distilled", "faithful"):
        for first in (f"{own}_to_first", f"{own}_from_first"):
            assert errors[first, 1, "none"] == errors[own, 1, "none"]
            assert errors[first, 2, "none"] != errors[own, 2, "none"]
    distances = {
        (r["training"], r["seed"]): r["value"] for r in designs.worst_case.to_pylist() if r["condition"] == "cps"
    }
    assert distances["longer_from_first", 2] is None
    assert distances["distilled_to_first", 1] < distances["distilled_to_first", 2]


def test_verdict_and_page_state_ratios_of_deviations(
    designs: stratoscope.FaithfulnessRun, browser: webdriver.Chrome
) -> None:
    sentences = [
        verdict for verdict in designs.verdicts if " against longer, waves, horizon 8: another seed " in verdict
    ]
    assert len(sentences) == 7
    assert all("the squared error changes by" in sentence for sentence in sentences)
    path = Path(designs.path, "report.html")
    assert page_faults(browser, path) == []
    open_page(browser, path)
    assert "Compared with training 'longer', another seed moves the squared error" in browser.page_source
    assert "agree by construction; that is not robustness" in browser.page_source
    assert "Ratios of deviations over seeds" in browser.page_source


def test_an_ablation_is_faithful_training_with_a_weight_of_zero(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    grid = fields()["grid"] | {"forecasters": ["timesieve"], "seeds": [1], "perturbations": ["gaussian"]}
    ablations = ["without_sib", "without_cps", "without_snp"]
    result = stratoscope.evaluate_faithfulness(
        **fields(run_id="ablated", grid=grid | {"trainings": ["plain", *ablations]})
    )
    weightless = stratoscope.evaluate_faithfulness(
        **fields(run_id="no_cps", grid=grid, faithful=fields()["faithful"] | {"cps": 0.0})
    )

    def numbers(finished: stratoscope.FaithfulnessRun, training: str) -> list:
        return [
            (r["perturbation"], r["mae"], r["mse"]) for r in finished.cells.to_pylist() if r["training"] == training
        ]

    assert numbers(result, "without_cps") == numbers(weightless, "faithful")
    assert len({tuple(numbers(result, t)) for t in ("plain", *ablations)}) == 4


def test_a_sampling_forecaster_has_the_same_draws_under_each_perturbation(
    fields: Fields,
    local_ray: None,  # noqa: ARG001
) -> None:
    grid = fields()["grid"] | {"forecasters": ["timesieve"], "seeds": [1], "perturbations": ["missing", "adversarial"]}
    tiny = {**grid, "levels": [0.0, 1e-7], "trainings": ["plain"]}
    result = stratoscope.evaluate_faithfulness(**fields(run_id="draws", grid=tiny, timesieve={"samples_at_test": True}))
    rows = {r["perturbation"]: r["moved"] for r in result.cells.to_pylist()}
    assert rows["adversarial"] < 1e-5, "the draws differ, not the input"


def test_an_untrained_forecaster_does_not_survive_another_seed(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    # Three seeds would leave it undecided.
    grid = fields()["grid"] | {"forecasters": ["linear"], "trainings": ["plain"], "perturbations": ["gaussian"]}
    grid |= {"seeds": list(range(8))}
    result = stratoscope.evaluate_faithfulness(
        **fields(run_id="seeded", grid=grid, fit={"epochs": 1, "learning_rate": 1e-8}, worst={"windows": 4, "steps": 2})
    )
    (verdict,) = result.verdicts
    assert "does not survive another seed" in verdict


def test_a_training_that_diverges_is_one_failed_cell(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    grid = fields()["grid"] | {"forecasters": ["timesieve", "last_value"], "seeds": [1], "trainings": ["plain"]}
    wild = fields(run_id="wild", grid=grid, fit={"epochs": 2, "learning_rate": 1e6})
    rows = stratoscope.evaluate_faithfulness(**wild).cells.to_pylist()
    (failed,) = [r for r in rows if r["status"] == "failed"]
    assert failed["forecaster"] == "timesieve"
    assert "choose a lower fit.learning_rate" in failed["error"]
    assert {r["forecaster"] for r in rows if r["status"] == "done"} == {"last_value"}


def test_a_rise_is_the_difference_from_the_clean_error(run: stratoscope.FaithfulnessRun) -> None:
    rows = [
        r
        for r in run.table("differences").to_pylist()
        if r["forecaster"] == "timesieve" and r["perturbation"] in ("none", "gaussian")
    ]
    by_metric = {(r["perturbation"], r["metric"]): r["difference"] for r in rows}
    expected = by_metric["gaussian", "mae"] - by_metric["none", "mae"]
    assert by_metric["gaussian", "mae_rise"] == pytest.approx(expected)
    assert ("none", "mae_rise") not in by_metric


def test_a_dry_run_prints_size_and_time(fields: Fields, series_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", fields()["output"], "--series.source", str(series_file), "--grid.horizons", "8"]
    assert run_from_command_line(FaithfulnessJob, [*arguments, "--dry_run", "true"]) == 0
    plan = dict(line.split(": ", 1) for line in capsys.readouterr().out.strip().splitlines())
    assert STEP in plan["series waves"]
    assert plan["note on waves"] == NEWEST_FIRST
    assert plan["grid"] == "12 cells, each met with at most 10 perturbations"
    assert plan["rows"] == "at most 132 in cells.parquet"
    assert 0 < float(plan["time"].removeprefix("roughly ").split(" s ")[0].replace(",", "")) < 1000


def test_a_start_killed_before_its_first_result_still_reuses_an_equal_run(
    fields: Fields, run: stratoscope.FaithfulnessRun
) -> None:
    settings = fields(run_id="begun", reuse=True)
    folder = RunFolder(settings["output"], "faithfulness", "begun")
    # A job writes its manifest first.
    folder.write_manifest(Manifest("faithfulness", "begun", {**run.manifest.config, "run_id": "begun"}, 0))
    reused = stratoscope.evaluate_faithfulness(**settings)
    assert reused.manifest.run_id == "grid"
    assert not Path(run.path).parent.joinpath("begun").exists()


def test_the_page_begins_with_who_survives_what(run: stratoscope.FaithfulnessRun, browser: webdriver.Chrome) -> None:
    path = Path(run.path, "report.html")
    assert page_faults(browser, path) == []
    open_page(browser, path)
    assert re.search(r"survives \d of \d perturbations", browser.title)
    verdict = browser.find_element(By.ID, "verdict").text
    assert NEWEST_FIRST in verdict
    assert re.search(r"TimeSieve plain .*(survives|undecided|does not)", verdict)
    assert STEP in html.unescape(path.read_text())
    assert not Path(run.path, "cells").exists()


def test_a_failed_cell_does_not_affect_others(fields: Fields, run: stratoscope.FaithfulnessRun) -> None:
    folder = Path(run.path).parent / "obstructed" / "cells"
    # A folder blocks the path of a file.
    (folder / "waves-timesieve-8-2-plain.epochs.parquet" / "in_the_way").mkdir(parents=True)
    grid = fields()["grid"] | {"forecasters": ["timesieve"], "seeds": [1, 2], "perturbations": ["gaussian"]}
    grid |= {"trainings": ["plain", "faithful", "longer_from_first"]}
    result = stratoscope.evaluate_faithfulness(**fields(run_id="obstructed", grid=grid))
    done = {(r["training"], r["seed"]) for r in result.cells.to_pylist() if r["status"] == "done"}
    assert done == {("plain", 1), ("faithful", 1), ("longer_from_first", 1), ("longer_from_first", 2)}
    failed = [r for r in result.cells.to_pylist() if r["status"] == "failed"]
    assert [(r["forecaster"], r["training"], r["seed"]) for r in failed] == [
        ("timesieve", "plain", 2),
        ("timesieve", "faithful", 2),
    ]
    assert "the task that it depends on failed" in failed[1]["error"]
    assert result.manifest.counts["failed"] == 2
    assert result.manifest.status == "done"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid.forecasters", "timeseive"], "did you mean 'timesieve'"),
        (["--grid.horizons", "400"], "choose shorter horizons"),
        (["--fit.lookback", "15"], "cannot halve a lookback of 15"),
        (["--grid.trainings", "faithful"], "the other trainings start from it"),
        (["--series.columns", "c"], "has no column 'c'"),
        (["--series.source", "nowhere"], "is no known series"),
        (["--series.time", "hour"], "no column is called 'hour'"),
        (["--series.fill", "zero"], "series.fill"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    options: list[str], message: str, fields: Fields, series_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", fields()["output"]]
    if "--series.source" not in options:
        arguments += ["--series.source", str(series_file)]
    if "--grid.horizons" not in options:
        arguments += ["--grid.horizons", "8"]
    assert run_from_command_line(FaithfulnessJob, [*arguments, *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.slow
def test_a_run_resumes_after_a_kill_without_repeating_finished_cells(
    fields: Fields, run: stratoscope.FaithfulnessRun
) -> None:
    settings = fields(run_id="killed")
    script = "import json, sys, stratoscope; stratoscope.evaluate_faithfulness(**json.loads(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(settings)], env=os.environ | {"RAY_ADDRESS": ""}
    )
    folder = Path(run.path).parent / "killed" / "cells"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.cells.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    finished = [pq.read_table(path).to_pylist() for path in folder.glob("*.cells.parquet")]
    assert finished
    again = stratoscope.evaluate_faithfulness(**settings)
    assert all(row in again.cells.to_pylist() for rows in finished for row in rows)
    rows, first = again.cells.to_pylist(), run.cells.to_pylist()
    numbers = [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert numbers == [{k: v for k, v in r.items() if k != "seconds"} for r in first]


@pytest.mark.slow
def test_sigterm_finishes_running_cells_and_leaves_a_resumable_run(
    fields: Fields, run: stratoscope.FaithfulnessRun, tmp_path: Path
) -> None:
    settings = fields(run_id="stopped")
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "jobs/faithfulness.py", "--config", str(file)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"RAY_ADDRESS": ""}
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    folder = Path(run.path).parent / "stopped" / "cells"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.cells.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.stderr is not None
    message = process.stderr.read().decode()
    assert process.wait(timeout=200) == 1
    assert "stopped by SIGTERM" in message
    again = stratoscope.evaluate_faithfulness(**settings)
    assert again.manifest.status == "done"
    rows, first = again.cells.to_pylist(), run.cells.to_pylist()
    numbers = [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert numbers == [{k: v for k, v in r.items() if k != "seconds"} for r in first]
