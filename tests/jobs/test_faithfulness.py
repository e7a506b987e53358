"""The faithfulness job on a real local Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import stratoscope
from stratoscope.pipelines.faithfulness import FaithfulnessJob, tables
from stratoscope.pipelines.faithfulness.outcome import deviation_interval, interval
from stratoscope.pipelines.runtime.job import run_from_command_line
from stratoscope.results import Manifest, RunFolder

Fields = Callable[..., dict]
KEYS = ("dataset", "forecaster", "training", "seed", "horizon")


@pytest.fixture(scope="module")
def series_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hundred points of two noisy waves."""
    generator = np.random.default_rng(0)
    time_of = np.arange(600)
    columns = [np.sin(time_of / 3), 5 + 2 * np.cos(time_of / 5)]
    rows = np.stack(columns, axis=1) + 0.1 * generator.standard_normal((600, 2))
    path = tmp_path_factory.mktemp("series") / "waves.csv"
    lines = ["date,a,b", *(f"t{i},{a:.5f},{b:.5f}" for i, (a, b) in enumerate(rows))]
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
    return stratoscope.faithfulness(**fields(run_id="grid"))


def test_every_cell_meets_every_perturbation(run: stratoscope.FaithfulnessRun) -> None:
    for name, schema in (
        ("cells", tables.CELLS),
        ("worst_case", tables.WORST),
        ("forecasts", tables.FORECASTS),
        ("epochs", tables.EPOCHS),
        ("spreads", tables.SPREADS),
        ("differences", tables.DIFFERENCES),
    ):
        assert run.table(name).schema.equals(schema), name
    rows = run.cells.to_pylist()
    models = {(r["forecaster"], r["training"]) for r in rows}
    assert models == {
        *((f, t) for f in ("timesieve", "dlinear") for t in ("plain", "faithful")),
        ("last_value", "plain"),
    }
    met = {r["perturbation"] for r in rows if r["forecaster"] == "timesieve"}
    assert met == {"none", "gaussian", "residual", "missing", "parameter", "adversarial"}
    assert {r["perturbation"] for r in rows if r["forecaster"] == "dlinear"} == met - {"parameter"}
    assert all(r["status"] == "done" and r["mae"] > 0 for r in rows)
    assert len(rows) == 3 * (2 * 6 + 2 * 5 + 5)


def test_what_does_not_depend_on_a_seed_is_the_same_under_all(run: stratoscope.FaithfulnessRun) -> None:
    spreads = {(r["forecaster"], r["training"], r["metric"]): r for r in run.table("spreads").to_pylist()}
    assert spreads["last_value", "plain", "mse"]["deviation"] == pytest.approx(0, abs=1e-12)
    assert spreads["timesieve", "plain", "mse"]["deviation"] > 0
    assert spreads["timesieve", "faithful", "mse"]["preference"] is not None
    assert any("last_value, plain" in v and "survives another seed" in v for v in run.verdicts)


def test_attacks_cost_more_than_noise_of_the_same_size(run: stratoscope.FaithfulnessRun) -> None:
    rows = {(r["forecaster"], r["training"], r["seed"], r["perturbation"]): r["mae"] for r in run.cells.to_pylist()}
    for forecaster in ("timesieve", "dlinear"):
        for seed in (1, 2, 3):
            own = {p: rows[forecaster, "plain", seed, p] for p in ("none", "gaussian", "adversarial")}
            assert own["adversarial"] > own["none"]
            assert own["adversarial"] > own["gaussian"]


def test_worst_cases_are_told_for_what_a_forecaster_has(run: stratoscope.FaithfulnessRun) -> None:
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


def test_numbers_do_not_depend_on_how_many_work_in_which_order(
    fields: Fields, run: stratoscope.FaithfulnessRun
) -> None:
    grid = fields()["grid"] | {"forecasters": ["dlinear", "timesieve"], "seeds": [3, 1, 2], "cpus": 0.5}
    again = stratoscope.faithfulness(**fields(run_id="order", grid=grid))

    def numbers(of: stratoscope.FaithfulnessRun) -> dict:
        rows = [r for r in of.cells.to_pylist() if r["forecaster"] != "last_value"]
        return {(*(r[k] for k in KEYS), r["perturbation"], r["level"]): (r["mae"], r["mse"], r["moved"]) for r in rows}

    assert numbers(again) == numbers(run)


def test_longer_plain_training_stands_beside_faithful_training(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    grid = fields()["grid"] | {"forecasters": ["dlinear"], "trainings": ["plain", "longer", "faithful"]}
    found = stratoscope.faithfulness(**fields(run_id="longer", grid=grid | {"perturbations": ["gaussian"]}))
    rows = found.table("differences").to_pylist()
    pairs = {(r["training"], r["other"]) for r in rows}
    assert pairs == {("longer", "plain"), ("faithful", "plain"), ("faithful", "longer")}
    epochs = found.table("epochs").to_pylist()
    assert {t: max(r["epoch"] for r in epochs if r["training"] == t) for t in ("longer", "faithful")} == {
        "longer": 2,
        "faithful": 2,
    }
    clean = {(r["training"], r["seed"]): r["mae"] for r in found.cells.to_pylist() if r["perturbation"] == "none"}
    own = next(
        r for r in rows if (r["training"], r["other"], r["metric"], r["level"]) == ("faithful", "longer", "mae", 0.0)
    )
    expected = np.mean([clean["faithful", seed] - clean["longer", seed] for seed in (1, 2, 3)])
    assert own["difference"] == pytest.approx(expected)
    assert own["ci_low"] < own["difference"] < own["ci_high"]


def test_an_ablation_is_faithful_training_with_a_weight_of_zero(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    grid = fields()["grid"] | {"forecasters": ["timesieve"], "seeds": [1], "perturbations": ["gaussian"]}
    ablations = ["without_sib", "without_cps", "without_snp"]
    found = stratoscope.faithfulness(**fields(run_id="ablated", grid=grid | {"trainings": ["plain", *ablations]}))
    weightless = stratoscope.faithfulness(
        **fields(run_id="no_cps", grid=grid, faithful=fields()["faithful"] | {"cps": 0.0})
    )

    def numbers(of: stratoscope.FaithfulnessRun, training: str) -> list:
        return [(r["perturbation"], r["mae"], r["mse"]) for r in of.cells.to_pylist() if r["training"] == training]

    assert numbers(found, "without_cps") == numbers(weightless, "faithful")
    assert len({tuple(numbers(found, t)) for t in ("plain", *ablations)}) == 4


def test_a_forecaster_that_draws_meets_each_perturbation_with_the_same_draws(
    fields: Fields,
    local_ray: None,  # noqa: ARG001
) -> None:
    grid = fields()["grid"] | {"forecasters": ["timesieve"], "seeds": [1], "perturbations": ["missing", "adversarial"]}
    tiny = {**grid, "levels": [0.0, 1e-7], "trainings": ["plain"]}
    found = stratoscope.faithfulness(**fields(run_id="draws", grid=tiny, timesieve={"samples_at_test": True}))
    rows = {r["perturbation"]: r["moved"] for r in found.cells.to_pylist()}
    assert rows["adversarial"] < 1e-5, "the draws are others, not the input"


def test_a_forecaster_that_is_what_its_seed_made_it_is_caught(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    grid = fields()["grid"] | {"forecasters": ["linear"], "trainings": ["plain"], "perturbations": ["gaussian"]}
    found = stratoscope.faithfulness(
        **fields(run_id="seeded", grid=grid, fit={"epochs": 1, "learning_rate": 1e-8}, worst={"windows": 4, "steps": 2})
    )
    (verdict,) = found.verdicts
    assert "does not survive another seed" in verdict


def test_a_training_that_diverges_is_one_failed_cell(fields: Fields, local_ray: None) -> None:  # noqa: ARG001
    grid = fields()["grid"] | {"forecasters": ["timesieve", "last_value"], "seeds": [1], "trainings": ["plain"]}
    wild = fields(run_id="wild", grid=grid, fit={"epochs": 2, "learning_rate": 1e30})
    rows = stratoscope.faithfulness(**wild).cells.to_pylist()
    (failed,) = [r for r in rows if r["status"] == "failed"]
    assert failed["forecaster"] == "timesieve"
    assert "take a lower fit.learning_rate" in failed["error"]
    assert {r["forecaster"] for r in rows if r["status"] == "done"} == {"last_value"}


def test_what_a_perturbation_adds_is_told_apart_from_what_was_there(run: stratoscope.FaithfulnessRun) -> None:
    rows = [
        r
        for r in run.table("differences").to_pylist()
        if r["forecaster"] == "timesieve" and r["perturbation"] in ("none", "gaussian")
    ]
    by_metric = {(r["perturbation"], r["metric"]): r["difference"] for r in rows}
    expected = by_metric["gaussian", "mae"] - by_metric["none", "mae"]
    assert by_metric["gaussian", "mae_rise"] == pytest.approx(expected)
    assert ("none", "mae_rise") not in by_metric


def test_intervals_are_students_and_chi_squares() -> None:
    # Tables of the two distributions with 4 degrees of freedom: 2.776, and .484 and 11.143.
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    deviation = 2.5**0.5
    half = 2.776 * deviation / 5**0.5
    assert interval(values) == pytest.approx((3 - half, 3 + half), rel=1e-3)
    expected = deviation * (4 / 11.143) ** 0.5, deviation * (4 / 0.484) ** 0.5
    assert deviation_interval(deviation, 5) == pytest.approx(expected, rel=1e-3)
    assert interval(values[:1]) == deviation_interval(None, 1) == (None, None)


def test_a_dry_run_says_how_much_and_how_long(
    fields: Fields, series_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--output", fields()["output"], "--series.source", str(series_file), "--grid.horizons", "8"]
    assert run_from_command_line(FaithfulnessJob, [*given, "--dry_run", "true"]) == 0
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.strip().splitlines())
    assert told["grid"] == "12 cells, each met with at most 10 perturbations"
    assert told["rows"] == "at most 132 in cells.parquet"
    assert 0 < float(told["time"].removeprefix("roughly ").split(" s ")[0].replace(",", "")) < 1000


def test_a_start_that_was_killed_before_it_computed_anything_still_takes_an_equal_run(
    fields: Fields, run: stratoscope.FaithfulnessRun
) -> None:
    asked = fields(run_id="begun", reuse=True)
    folder = RunFolder(asked["output"], "faithfulness", "begun")
    # What a job writes before anything else.
    folder.write_manifest(Manifest("faithfulness", "begun", {**run.manifest.config, "run_id": "begun"}, 0))
    found = stratoscope.faithfulness(**asked)
    assert found.manifest.run_id == "grid"
    assert not Path(run.path).parent.joinpath("begun").exists()


def test_a_page_is_written(run: stratoscope.FaithfulnessRun) -> None:
    page = Path(run.path, "report.html").read_text()
    assert "One window under all seeds" in page
    assert not Path(run.path, "cells").exists()


def test_a_cell_that_fails_loses_no_other(fields: Fields, run: stratoscope.FaithfulnessRun) -> None:
    folder = Path(run.path).parent / "obstructed" / "cells"
    # A folder where a file was to go.
    (folder / "waves-timesieve-8-2-plain.epochs.parquet" / "in_the_way").mkdir(parents=True)
    found = stratoscope.faithfulness(**fields(run_id="obstructed"))
    failed = [r for r in found.cells.to_pylist() if r["status"] == "failed"]
    assert [(r["forecaster"], r["training"], r["seed"]) for r in failed] == [
        ("timesieve", "plain", 2),
        ("timesieve", "faithful", 2),
    ]
    assert "the task that it depends on failed" in failed[1]["error"]
    assert found.manifest.counts["failed"] == 2
    assert found.manifest.status == "done"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--grid.forecasters", "timeseive"], "did you mean 'timesieve'"),
        (["--grid.horizons", "400"], "take shorter horizons"),
        (["--fit.lookback", "15"], "cannot halve a lookback of 15"),
        (["--grid.trainings", "faithful"], "the others go on from plain"),
        (["--series.columns", "c"], "has no column 'c'"),
        (["--series.source", "nowhere"], "is no known series"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, fields: Fields, series_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--output", fields()["output"]]
    if "--series.source" not in arguments:
        given += ["--series.source", str(series_file)]
    if "--grid.horizons" not in arguments:
        given += ["--grid.horizons", "8"]
    assert run_from_command_line(FaithfulnessJob, [*given, *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_another_that_fits_nothing_twice(
    fields: Fields, run: stratoscope.FaithfulnessRun
) -> None:
    asked = fields(run_id="killed")
    script = "import json, sys, stratoscope; stratoscope.faithfulness(**json.loads(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", script, json.dumps(asked)], env=os.environ | {"RAY_ADDRESS": ""})
    folder = Path(run.path).parent / "killed" / "cells"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.cells.parquet")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)
    kept = [pq.read_table(path).to_pylist() for path in folder.glob("*.cells.parquet")]
    assert kept
    again = stratoscope.faithfulness(**asked)
    assert all(row in again.cells.to_pylist() for rows in kept for row in rows)
    rows, first = again.cells.to_pylist(), run.cells.to_pylist()
    numbers = [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert numbers == [{k: v for k, v in r.items() if k != "seconds"} for r in first]


@pytest.mark.slow
def test_sigterm_ends_the_cells_in_work_and_leaves_a_run_that_goes_on(
    fields: Fields, run: stratoscope.FaithfulnessRun, tmp_path: Path
) -> None:
    asked = fields(run_id="stopped")
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(asked))
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
    told = process.stderr.read().decode()
    assert process.wait(timeout=200) == 1
    assert "stopped by SIGTERM" in told
    again = stratoscope.faithfulness(**asked)
    assert again.manifest.status == "done"
    rows, first = again.cells.to_pylist(), run.cells.to_pylist()
    numbers = [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    assert numbers == [{k: v for k, v in r.items() if k != "seconds"} for r in first]
