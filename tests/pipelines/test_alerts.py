"""What an audit sends out."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from junitparser import JUnitXml

from stratoscope.errors import InputError
from stratoscope.pipelines.audit import alerts
from stratoscope.pipelines.audit.config import DestinationsSection
from stratoscope.pipelines.runtime.mlflow import check_mlflow

SECRET = "a-token-that-nobody-may-see"


def step(model: str, stage: str, verdict: str, **fields: Any) -> dict[str, Any]:
    base = {"status": "done", "run": "runs/x", "seconds": 2.0, "cpu_hours": 0.00123, "bytes": 4_560_000, "error": None}
    return (
        base
        | {"model": model, "stage": stage, "verdict": verdict}
        | {"regressions": [], "changed": [], "figures": {}}
        | fields
    )


NIGHT = {
    "audit": "nightly",
    "run_id": "n2",
    "started": "2026-01-02T03:04:05+00:00",
    "previous_night": "n1",
    "exit_code": 3,
    "headline": "1 of 3 stages regressed since n1.",
    "report": "runs/audit/n2/report.html",
    "steps": [
        step("a <b>|x", "score", "regression", regressions=["layers 3 moved"], changed=["other weights"]),
        step("a <b>|x", "search", "steady", figures={"held-out retention": 0.75}),
        step("c", "score", "failed", status="failed", error="it broke"),
        step("c", "search", "skipped", status="skipped", error="it depends on c.score, which was failed"),
    ],
}


class Receiver(BaseHTTPRequestHandler):
    """Answers with the codes it was given, one after another, and keeps what it was sent."""

    codes: list[int]
    seen: list[tuple[str | None, Any]]

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.headers.get("Authorization"), content))
        self.send_response(self.codes.pop(0) if self.codes else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def receiver(*codes: int) -> Iterator[tuple[str, list[tuple[str | None, Any]]]]:
    handler = type("Handler", (Receiver,), {"codes": list(codes), "seen": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook/{SECRET}", handler.seen
        server.shutdown()


@pytest.fixture
def destinations(monkeypatch: pytest.MonkeyPatch) -> DestinationsSection:
    monkeypatch.setattr(alerts, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv(alerts.WEBHOOK_TOKEN, SECRET)
    return DestinationsSection(webhook=True, webhook_attempts=3, webhook_seconds=5)


def test_a_webhook_that_refuses_twice_gets_the_summary_at_last(
    destinations: DestinationsSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver(500, 503, 204) as (url, seen):
        monkeypatch.setenv(alerts.WEBHOOK_URL, url)
        assert alerts.send_webhook(NIGHT, destinations) is None
    headline = {"text": "Audit nightly: 1 of 3 stages regressed since n1."}
    assert [content for _, content in seen] == [headline | NIGHT] * 3
    assert {authorization for authorization, _ in seen} == {f"Bearer {SECRET}"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_failing_webhook_is_reported_without_its_secrets(
    destinations: DestinationsSection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, gone: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiver(*[500] * 9) as (url, seen):
        monkeypatch.setenv(alerts.WEBHOOK_URL, url)
        trouble = None if gone else alerts.send_webhook(NIGHT, destinations)
    if gone:  # nobody listens at that port any more
        trouble = alerts.send_webhook(NIGHT, destinations)
    assert trouble is not None
    assert f"in 3 attempts: {'ConnectError' if gone else 'the response was 500'}" in trouble
    assert len(seen) == (0 if gone else 3)
    assert SECRET not in trouble
    assert SECRET not in caplog.text


def test_a_webhook_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(alerts.WEBHOOK_URL, raising=False)
    with pytest.raises(InputError, match="STRATOSCOPE_WEBHOOK_URL"):
        alerts.check_destinations(DestinationsSection(webhook=True))


def test_junit_has_a_suite_for_each_model_and_a_case_for_each_stage() -> None:
    suites = {suite.name: suite for suite in JUnitXml.fromstring(alerts.junit(NIGHT))}
    assert list(suites) == ["a <b>|x", "c"]
    assert (suites["a <b>|x"].tests, suites["a <b>|x"].failures) == (2, 1)
    assert (suites["c"].errors, suites["c"].skipped) == (1, 1)
    (failed,) = next(iter(suites["a <b>|x"])).result
    assert failed.message == "layers 3 moved"


def test_markdown_shows_names_as_they_are_and_regressions_first() -> None:
    text = alerts.markdown(NIGHT)
    assert "<b>" not in text.replace(r"\<b\>", "")
    assert text.index("layers 3 moved") < text.index("it broke") < text.index("other weights")
    row = next(line for line in text.splitlines() if "✗ regression" in line)
    assert [cell.strip() for cell in row.replace(r"\|", "").split("|")[4:-1]] == ["2", "0.001", "4.6 MB"]


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server of MLflow's; yields its address."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    with (folder / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            [*command, *store],
            cwd=folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not _answers(f"{address}/health"):
            assert server.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        return httpx2.get(address, timeout=2).is_success
    except httpx2.TransportError:
        return False


def test_an_unreachable_mlflow_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    error = alerts.send_mlflow(NIGHT, DestinationsSection(mlflow="http://127.0.0.1:9"))
    assert error is not None
    assert error.startswith("MLflow did not accept the key metrics: ")


@pytest.mark.long
@pytest.mark.parametrize("store", ["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def test_key_figures_reach_mlflow(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}" if store == "sqlite" else request.getfixturevalue("mlflow_server")
    assert alerts.send_mlflow(NIGHT, DestinationsSection(mlflow=uri, mlflow_experiment="nights")) is None
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("nights")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"a _b__x/search/held-out retention": 0.75}
    assert run.data.tags["stratoscope.run_id"] == "n2"
    assert run.data.tags["a _b__x/score"] == "regression"
    assert run.info.status == "FAILED"


def test_the_exit_code_is_3_where_anything_got_worse_and_1_where_anything_was_lost() -> None:
    assert alerts.exit_code(["steady", "same", "first"]) == 0
    assert alerts.exit_code(["steady", "over time"]) == 1
    assert alerts.exit_code(["skipped", "regression"]) == 3


@pytest.mark.parametrize(
    "uri",
    [None, "runs/mlflow", "file:///tmp/x", "http://host:5000", "sqlite:///x.db", "mysql+pymysql://h/d", "databricks"],
)
def test_addresses_of_mlflow_are_accepted(uri: str | None) -> None:
    check_mlflow("tracking.mlflow", uri)


@pytest.mark.parametrize("uri", ["nonsense://x", "htp://host", "s3://bucket/folder"])
def test_an_address_that_mlflow_cannot_open_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"^tracking\.mlflow: MLflow knows no scheme"):
        check_mlflow("tracking.mlflow", uri)
