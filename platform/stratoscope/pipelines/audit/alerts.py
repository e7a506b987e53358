"""Alerts of a night: a summary in JSON and Markdown, JUnit XML, a webhook, and MLflow."""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from stratoscope.errors import EXIT_DONE, EXIT_FAILED, EXIT_REGRESSION, InputError
from stratoscope.pipelines.audit.assess import Assessment, Verdict
from stratoscope.pipelines.audit.config import WEBHOOK_TOKEN, WEBHOOK_URL, DestinationsSection
from stratoscope.pipelines.audit.report import SIGNS, headline
from stratoscope.pipelines.audit.steps import FailureStatus
from stratoscope.pipelines.reporting.formatting import number_text, size_text
from stratoscope.pipelines.runtime.mlflow import check_mlflow
from stratoscope.results import Manifest

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
INVALID_IN_METRIC = re.compile(r"[^\w\-. /:]")
"""Characters that MLflow does not accept in the name of a metric."""
METRICS_PER_BATCH = 500
MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
"""Limits for MLflow. With MLflow's own defaults, an unresponsive server would block the audit for a long time."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def check_destinations(config: DestinationsSection) -> None:
    """Check that alerts can be sent.

    Raises:
        InputError: an environment variable or a package is missing, or MLflow's address has an unknown scheme.
    """
    if config.webhook and not os.environ.get(WEBHOOK_URL, "").startswith(("http://", "https://")):
        raise InputError(f"destinations.webhook needs the environment variable {WEBHOOK_URL}, an http or https address")
    check_mlflow("destinations.mlflow", config.mlflow)


def summary(assessments: Sequence[Assessment], manifest: Manifest, previous: str | None, url: str) -> dict[str, Any]:
    """Return the summary of a night as plain values.

    Args:
        assessments: the assessed steps.
        manifest: manifest of the audit.
        previous: run_id of the previous night, or None.
        url: path or URL of the night's folder.
    """
    return {
        "audit": manifest.config["name"],
        "run_id": manifest.run_id,
        "started": manifest.started,
        "previous_night": previous,
        "exit_code": exit_code([a.verdict for a in assessments]),
        "headline": headline(assessments, previous),
        "report": f"{url}/report.html",
        "steps": [
            {
                "model": _printable(a.subject),
                "stage": a.stage,
                "status": a.result.status,
                "verdict": a.verdict,
                "run": a.result.run,
                "seconds": round(a.result.seconds, 1),
                "cpu_hours": a.result.cpu_hours,
                "bytes": a.result.num_bytes,
                "error": _printable(a.result.error) if a.result.error else None,
                "regressions": [_printable(text) for text in a.regressions],
                "changed": [_printable(text) for text in a.changes],
                "figures": {c.metric.name: c.metric.value for c in a.comparisons},
            }
            for a in assessments
        ],
    }


def _printable(text: str) -> str:
    """Return text without control characters, which must not reach XML or a terminal."""
    return UNPRINTABLE.sub("", text)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """Return 3 if anything regressed, 1 if a step did not succeed, and 0 otherwise."""
    if "regression" in verdicts:
        return EXIT_REGRESSION
    return EXIT_FAILED if set(verdicts) & set(get_args(FailureStatus)) else EXIT_DONE


def markdown(night: Mapping[str, Any]) -> str:
    """Return a summary as Markdown."""
    steps = night["steps"]
    lines = [
        *(f"# Audit {night['audit']}, {night['started'][:10]}", "", night["headline"], ""),
        *_markdown_list("Regressions", [(step, text) for step in steps for text in step["regressions"]]),
        *_markdown_list(
            "Did not succeed", [(step, f"{step['status']}: {step['error']}") for step in steps if step["error"]]
        ),
        *_markdown_list("Changed", [(step, "; ".join(step["changed"])) for step in steps if step["changed"]]),
        *("| model | stage | verdict | seconds | CPU hours | size |", "|---|---|---|---|---|---|"),
        *(f"| {_escaped(s['model'])} | {' | '.join(_markdown_cost(s))} |" for s in steps),
    ]
    return "\n".join([*lines, "", f"Report: {night['report']}", ""])


def _markdown_list(heading: str, items: Sequence[tuple[Mapping[str, Any], str]]) -> Iterator[str]:
    """Yield the lines of a section, or nothing if it has no items."""
    if items:
        yield from (f"## {heading}", "")
        yield from (f"- **{_escaped(step['model'])}**, {step['stage']}: {_escaped(text)}" for step, text in items)
        yield ""


def _markdown_cost(step: Mapping[str, Any]) -> list[str]:
    """Return the cells of a step's row after the model."""
    cost = [f"{step['seconds']:,.0f}", number_text(step["cpu_hours"], ".3f"), size_text(step["bytes"])]
    return [step["stage"], SIGNS[step["verdict"]][0], *cost]


def _escaped(text: str) -> str:
    """Return text with the special characters of Markdown escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def junit(night: Mapping[str, Any]) -> bytes:
    """Return a summary as JUnit XML: a suite for each model, a case for each stage, a failure for each regression."""
    from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

    xml = JUnitXml(night["audit"])
    for model in dict.fromkeys(s["model"] for s in night["steps"]):
        suite = TestSuite(model)
        for step in (s for s in night["steps"] if s["model"] == model):
            case = TestCase(step["stage"], classname=model, time=step["seconds"])
            case.result = [Failure(text, "regression") for text in step["regressions"]]
            if step["status"] == "skipped":
                case.result = [Skipped(step["error"])]
            elif step["error"]:
                case.result = [Error(step["error"], step["status"])]
            suite.add_testcase(case)
        xml.add_testsuite(suite)
    content: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return content


def send_webhook(night: Mapping[str, Any], config: DestinationsSection) -> str | None:
    """Post a summary. Return an error message or None. The message and the log never contain the address or token."""
    import httpx2
    from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

    token, seconds = os.environ.get(WEBHOOK_TOKEN), config.webhook_seconds
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    retrying = Retrying(
        stop=stop_after_attempt(config.webhook_attempts),
        wait=wait_exponential(FIRST_PAUSE_S, max=MAX_PAUSE_S),
        retry=retry_if_exception_type((httpx2.TransportError, _ResponseError)),
    )

    # Chat services show this field and ignore the others.
    content = {"text": f"Audit {night['audit']}: {night['headline']}"} | dict(night)

    def post() -> None:
        # The body of the response is not read.
        with httpx2.stream("POST", os.environ[WEBHOOK_URL], json=content, headers=headers, timeout=seconds) as response:
            if not response.is_success:
                raise _ResponseError(response.status_code)

    # httpx would log the address of every request.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        retrying(post)
    except RetryError as error:
        last = error.last_attempt.exception()
        reason = f"the response was {last.code}" if isinstance(last, _ResponseError) else type(last).__name__
        return f"the webhook did not accept the summary in {config.webhook_attempts} attempts: {reason}"
    except Exception as error:
        return f"the webhook could not be called: {type(error).__name__}"
    return None


class _ResponseError(Exception):
    """The webhook responded with an error."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def send_mlflow(night: Mapping[str, Any], config: DestinationsSection) -> str | None:
    """Log a night's key metrics as an MLflow run. Return an error message, or None."""
    for variable, value in MLFLOW_LIMITS.items():
        os.environ.setdefault(variable, value)
    try:
        _log_to_mlflow(night, config)
    except Exception as error:  # an error of the server must not fail the audit
        return f"MLflow did not accept the key metrics: {type(error).__name__}"
    return None


def _log_to_mlflow(night: Mapping[str, Any], config: DestinationsSection) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(config.mlflow)
    experiment = client.get_experiment_by_name(config.mlflow_experiment)
    number = experiment.experiment_id if experiment else client.create_experiment(config.mlflow_experiment)
    tags = {"stratoscope.audit": night["audit"], "stratoscope.run_id": night["run_id"]}
    run_id = client.create_run(number, tags=tags, run_name=night["run_id"]).info.run_id
    now, metrics = int(1000 * time.time()), []
    for step in night["steps"]:
        client.set_tag(run_id, _metric_name(step["model"], step["stage"]), step["verdict"])
        for name, value in step["figures"].items():
            metrics.append(Metric(_metric_name(step["model"], step["stage"], name), value, now, 0))
    for first in range(0, len(metrics), METRICS_PER_BATCH):
        client.log_batch(run_id, metrics[first : first + METRICS_PER_BATCH])
    client.set_terminated(run_id, "FAILED" if night["exit_code"] else "FINISHED")


def _metric_name(*parts: str) -> str:
    return "/".join(INVALID_IN_METRIC.sub("_", part.replace("/", "_")) for part in parts)[:250]
