"""The audit job: real nights over tiny models, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from junitparser import JUnitXml
from selenium import webdriver
from selenium.webdriver.common.by import By
from transformers import AutoModelForCausalLM

from stratoscope.cli import main
from tests.execution.test_processes import gone
from tests.pages import VIEWS, open_page, page_faults, unfold

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
HOSTILE = "b <img src=x onerror=alert(1)>"
PLANTED = 2
SECRET = "nobody-may-see-this"


@dataclass(frozen=True)
class Audit:
    """An audit's file, and the nights that were made of it."""

    file: Path
    output: Path

    def night(self, run_id: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the audit to its end."""
        return subprocess.run(
            self.command(run_id),
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    def command(self, run_id: str) -> list[str]:
        return [sys.executable, "jobs/audit.py", "--config", str(self.file), "--run_id", run_id]

    def change(self, **fields: Any) -> None:
        self.file.write_text(yaml.safe_dump(yaml.safe_load(self.file.read_text()) | fields))

    def rows(self, run_id: str, table: str = "models") -> list[dict[str, Any]]:
        return pq.read_table(self.output / "audit" / run_id / f"{table}.parquet").to_pylist()

    def manifest(self, run_id: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.output / "audit" / run_id / "manifest.json").read_text())
        return content


def make_audit(folder: Path, tiny_model_folder: Path, prompts: Path, *others: dict) -> Audit:
    """An audit of a copy of the tiny model, and of what else is given."""
    shutil.copytree(tiny_model_folder, folder / "a")
    scores = {"bootstrap": 100, "splits": 2}
    score = {"prompts": {"source": str(prompts)}, "scores": scores, "actors": {"max": 1}}
    audit = Audit(folder / "audit.yaml", folder / "runs")
    audit.file.write_text("{}")
    audit.change(
        output=str(audit.output),
        models=[{"source": str(folder / "a"), "stages": ["score"]}, *others],
        forecasters=[],
        settings={"score": score},
    )
    return audit


def plant(folder: Path) -> None:
    """Perturb one layer of the model in a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[PLANTED].mlp.down_proj.weight.mul_(1.5)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def nights(tiny_model_folder: Path, prompts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Two nights; in both a model has no prompts, in the first another has no time, in the second one is perturbed.

    Nobody takes the alert of the second.
    """
    folder = tmp_path_factory.mktemp("audit")
    nothing = {"score": {"prompts": {"source": str(folder / "no-prompts.txt")}}}
    lost = {"source": str(tiny_model_folder), "name": HOSTILE, "stages": ["score"], "overrides": nothing}
    late = {"source": str(tiny_model_folder), "name": "late", "stages": ["score", "search"], "hours": 0.0003}
    audit = make_audit(folder, tiny_model_folder, prompts_file, lost, late)
    first = audit.night("n1")
    assert first.returncode == 1, first.stdout + first.stderr
    assert "did not succeed" in first.stdout
    plant(folder / "a")
    destinations = {"webhook": True, "webhook_attempts": 1}
    audit.change(models=yaml.safe_load(audit.file.read_text())["models"][:2], destinations=destinations)
    second = audit.night("n2", STRATOSCOPE_WEBHOOK_URL=f"http://127.0.0.1:9/{SECRET}", STRATOSCOPE_WEBHOOK_TOKEN=SECRET)
    assert "the webhook did not accept the summary in 1 attempts" in second.stdout
    assert SECRET not in second.stdout + second.stderr
    assert second.returncode == 3, second.stdout + second.stderr
    assert second.stdout.splitlines()[-1] == f"run: {audit.output}/audit/n2"
    return audit


def test_a_model_that_fails_or_hangs_loses_no_other(nights: Audit) -> None:
    rows = {(row["model"], row["stage"]): row for row in nights.rows("n1")}
    assert {key: row["verdict"] for key, row in rows.items()} == {
        ("a", "score"): "first",
        (HOSTILE, "score"): "refused",
        ("late", "score"): "over time",
        ("late", "search"): "skipped",
    }
    assert "it depends on late.score, which was over time" in rows["late", "search"]["error"]
    assert "no-prompts.txt" in rows[HOSTILE, "score"]["error"]
    assert rows["a", "score"]["figures"]
    run = nights.output / "score" / "n1.a"
    assert rows["a", "score"]["bytes"] == sum(f.stat().st_size for f in run.rglob("*") if f.is_file()) > 0
    # Most of the work is done by Ray's processes, none of which the stage's process waits for.
    assert rows["a", "score"]["cpu_hours"] > 4 / 3600
    assert (rows["late", "search"]["cpu_hours"], rows["late", "search"]["bytes"]) == (0, 0)
    assert nights.manifest("n1")["status"] == "failed"
    assert nights.manifest("n1")["exit_code"] == 1


def test_a_perturbed_layer_is_caught_and_named(nights: Audit) -> None:
    (row, lost) = nights.rows("n2")
    assert (row["verdict"], lost["verdict"]) == ("regression", "refused")
    assert f"weights differ in layer {PLANTED}" in row["regressions"][0]
    assert row["changed"] == ["other weights", "other activations"]
    moved = [r for r in nights.rows("n2", "drift") if r["moved"]]
    # Layers below the perturbed one see nothing of it.
    assert min(r["layer"] for r in moved) == PLANTED
    assert (nights.manifest("n2")["status"], nights.manifest("n2")["exit_code"]) == ("done", 3)


def test_a_finished_night_ends_again_as_it_ended(nights: Audit) -> None:
    page = nights.output / "audit" / "n2" / "report.html"
    written = page.stat().st_mtime_ns
    assert main(["audit", "--config", str(nights.file), "--run_id", "n2"]) == 3
    assert page.stat().st_mtime_ns == written


def test_a_night_is_summarized_in_files(nights: Audit) -> None:
    folder = nights.output / "audit" / "n2"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["exit_code"], summary["previous_night"]) == (3, "n1")
    assert [step["bytes"] for step in summary["steps"]] == [row["bytes"] for row in nights.rows("n2")]
    assert r"\<img src=x onerror=alert(1)\>" in (folder / "summary.md").read_text()
    suites = {suite.name: suite for suite in JUnitXml.fromfile(str(folder / "junit.xml"))}
    assert suites["a"].failures == len(nights.rows("n2")[0]["regressions"]) > 0
    assert (suites[HOSTILE].failures, suites[HOSTILE].errors) == (0, 1)


def test_an_undelivered_alert_is_reported_without_its_secrets(nights: Audit) -> None:
    assert nights.manifest("n2")["facts"]["undelivered"]
    files = [file for file in nights.output.rglob("*") if file.is_file()]
    assert {"log.txt", "manifest.json", "a.score.yaml", "a.score.err"} <= {file.name for file in files}
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_the_page_shows_what_changed_first_and_leads_to_the_runs(nights: Audit, browser: webdriver.Chrome) -> None:
    page = nights.output / "audit" / "n2" / "report.html"
    assert page_faults(browser, page) == []
    open_page(browser, page)
    assert browser.title.startswith("Regression of ")
    unfold(browser, VIEWS[0])
    assert browser.find_element(By.TAG_NAME, "h2").text == "What changed"
    assert "regression" in browser.find_element(By.CSS_SELECTOR, "#section-1 tbody tr").text
    assert not browser.find_elements(By.CSS_SELECTOR, "body img")
    browser.find_element(By.CSS_SELECTOR, "#verdict td.bad a").click()
    assert "/score/" in browser.current_url
    assert browser.get_log("browser") == []


def test_commands_show_nights(nights: Audit, capfd: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(nights.output)]
    assert main(["report", "--latest", "--job", "audit", *output]) == 0
    assert "✗ regression" in capfd.readouterr().out
    assert main(["compare", "n1.a", "n2.a", *output]) == 0
    text = capfd.readouterr().out
    assert "changed: other weights; other activations" in text
    assert f"layers whose weights differ: {PLANTED}" in text
    assert main(["history", "--facts", "--model", "a", *output]) == 0
    assert "least split-half correlation" in capfd.readouterr().out
    asked = "SELECT model, verdict FROM audit_models WHERE run_id = 'n2' ORDER BY model"
    assert main(["history", "--sql", asked, *output]) == 0
    assert "regression" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report"], "name a run, or give --latest"),
        (["report", "n3"], "no run_id under"),
        (["compare", "n1.a"], "at least 2"),
        (["compare", "n1", "n1.a"], "is a run of audit and"),
        (["compare", "n1", "n2"], "runs of audit have no key metrics"),
        (["history", "--model", "b"], "model 'b' is in no night"),
        (["history", "--sql", "SELECT"], "the query failed"),
    ],
)
def test_bad_questions_are_one_line_and_exit_code_2(
    nights: Audit, arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--output", str(nights.output)]) == 2
    output = capfd.readouterr().err
    assert said in output
    assert output.count("\n") == 1


@pytest.mark.slow
def test_an_identical_night_computes_nothing_and_alerts_on_nothing(
    tiny_model_folder: Path,
    prompts_file: Path,
    tmp_path: Path,
    browser: webdriver.Chrome,
) -> None:
    audit = make_audit(tmp_path, tiny_model_folder, prompts_file)
    grid = {"seeds": [1, 2], "levels": [0.0, 0.2], "perturbations": ["gaussian"], "trainings": ["plain"]}
    settings = yaml.safe_load(audit.file.read_text())["settings"]
    settings["faithfulness"] = {"series": {"limit": 2000}, "grid": grid, "fit": {"epochs": 1}}
    named = {"forecaster": "last_value", "name": HOSTILE}
    audit.change(settings=settings, forecasters=[named], schedule={"parallel": 2})
    for night, status in (("n1", "done"), ("n2", "reused")):
        ended = audit.night(night)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert [row["status"] for row in audit.rows(night)] == [status] * 2
        assert [row["bytes"] > 0 for row in audit.rows(night)] == [status == "done"] * 2
    assert [row["stage_run_id"] for row in audit.rows("n2")] == ["n1.a", "n1.b-img-src-x-onerror-alert-1"]
    assert not (audit.output / "score" / "n2.a").exists()
    open_page(browser, audit.output / "audit" / "n2" / "report.html")
    assert "Trends" in [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert not browser.find_elements(By.CSS_SELECTOR, "body img")
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_a_killed_night_resumes_and_a_second_process_is_refused(
    tiny_model_folder: Path, prompts_file: Path, tmp_path: Path
) -> None:
    other = {"source": str(tiny_model_folder), "name": "b", "stages": ["score"]}
    audit = make_audit(tmp_path, tiny_model_folder, prompts_file, other)
    night = subprocess.Popen(audit.command("n1"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = audit.output / "audit" / "n1" / "steps" / "a.score.json"
    begun = audit.output / "score" / "n1.b" / "lease.json"
    deadline = time.monotonic() + 200
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = json.loads(begun.read_text())["pid"]
    os.kill(child, signal.SIGSTOP)  # so that the night does not end meanwhile
    refused = audit.night("n1")
    assert refused.returncode == 2
    assert "is in use by process" in refused.stderr
    night.send_signal(signal.SIGKILL)
    night.wait(timeout=60)
    time.sleep(2)
    assert gone(child), "a stage outlives its audit"
    kept = first.read_bytes()
    ended = audit.night("n1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert first.read_bytes() == kept, "the finished stage was run again"
    assert [row["status"] for row in audit.rows("n1")] == ["done"] * 2


@pytest.mark.slow
def test_a_night_resumes_after_sigterm_and_two_nights_at_once_do_not_disturb_each_other(
    tiny_model_folder: Path, prompts_file: Path, tmp_path: Path
) -> None:
    audit = make_audit(tmp_path, tiny_model_folder, prompts_file)
    audit.change(reuse=False)
    stopped = subprocess.Popen(audit.command("n1"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log = audit.output / "audit" / "n1" / "log.txt"
    deadline = time.monotonic() + 100
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    stopped.terminate()
    assert stopped.stderr is not None
    output = stopped.stderr.read().decode()
    assert stopped.wait(timeout=200) == 1
    assert "stopped by SIGTERM" in output
    both = [subprocess.Popen(audit.command(night), cwd=ROOT, stdout=subprocess.DEVNULL) for night in ("n1", "n2")]
    assert [night.wait(timeout=300) for night in both] == [0, 0]
    scores = [pq.read_table(audit.output / "score" / f"{night}.a" / "layer_scores.parquet") for night in ("n1", "n2")]
    assert scores[0].equals(scores[1])
