"""What is sent out in the morning: a summary in Markdown and JSON, JUnit's XML, a webhook, and MLflow."""

import importlib.util
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from stratoscope.errors import EXIT_DONE, EXIT_FAILED, EXIT_REGRESSION, InputError
from stratoscope.pipelines.audit.assess import Assessment, Verdict
from stratoscope.pipelines.audit.config import WEBHOOK_TOKEN, WEBHOOK_URL, DestinationsSection
from stratoscope.pipelines.audit.report import SIGNS, headline
from stratoscope.pipelines.audit.steps import Lost
from stratoscope.results import Manifest

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
REFUSED_NAME = re.compile(r"[^\w\-. /:]")
"""What MLflow does not take in the name of a metric."""
METRICS_AT_ONCE = 500
MLFLOW_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
"""Unless they are set; with MLflow's own a server that does not answer would hold the night for long."""
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def check_destinations(config: DestinationsSection) -> None:
    """See that alerts can be sent.

    Raises:
        InputError: a variable or a package is missing.
    """
    if config.webhook and not os.environ.get(WEBHOOK_URL, "").startswith(("http://", "https://")):
        raise InputError(f"destinations.webhook needs the environment variable {WEBHOOK_URL}, an http or https address")
    if config.mlflow is not None and importlib.util.find_spec("mlflow") is None:
        raise InputError("destinations.mlflow needs the package mlflow: pip install 'stratoscope[mlflow]'")


def summary(found: Sequence[Assessment], manifest: Manifest, previous: str | None, url: str) -> dict[str, Any]:
    """Return the night as what JSON can write.

    Args:
        found: its steps.
        manifest: of the audit.
        previous: run_id of the night before, or None.
        url: of the night's folder.
    """
    return {
        "audit": manifest.config["name"],
        "run_id": manifest.run_id,
        "started": manifest.started,
        "previous_night": previous,
        "exit_code": exit_code([a.verdict for a in found]),
        "headline": headline(found, previous),
        "report": f"{url}/report.html",
        "steps": [
            {
                "model": _printable(a.subject),
                "stage": a.step.stage.name,
                "status": a.end.status,
                "verdict": a.verdict,
                "run": a.end.run,
                "seconds": round(a.end.seconds, 1),
                "error": _printable(a.end.error) if a.end.error else None,
                "regressions": [_printable(text) for text in a.regressions],
                "changed": [_printable(text) for text in a.changed],
                "figures": {c.figure.name: c.figure.value for c in a.compared},
            }
            for a in found
        ],
    }


def _printable(text: str) -> str:
    """Return text without what neither XML nor a terminal should get."""
    return UNPRINTABLE.sub("", text)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """Return 3 where anything got worse, else 1 where a step did not end well, else 0."""
    if "regression" in verdicts:
        return EXIT_REGRESSION
    return EXIT_FAILED if set(verdicts) & set(get_args(Lost)) else EXIT_DONE


def markdown(told: Mapping[str, Any]) -> str:
    """Return a summary as Markdown."""
    lines = [f"# Audit {told['audit']}, {told['started'][:10]}", "", told["headline"], ""]
    steps = told["steps"]
    worse = [(s, text) for s in steps for text in s["regressions"]]
    if worse:
        lines += ["## Regressions", "", *(f"- {_named(s)}: {_escaped(text)}" for s, text in worse), ""]
    lost = [s for s in steps if s["error"]]
    if lost:
        lines += [
            "## Did not end well",
            "",
            *(f"- {_named(s)}: {s['status']}: {_escaped(s['error'])}" for s in lost),
            "",
        ]
    changed = [s for s in steps if s["changed"]]
    if changed:
        lines += ["## Changed", "", *(f"- {_named(s)}: {_escaped('; '.join(s['changed']))}" for s in changed), ""]
    lines += ["| model | stage | verdict | seconds |", "|---|---|---|---|"]
    lines += [
        f"| {_escaped(s['model'])} | {s['stage']} | {SIGNS[s['verdict']][0]} | {s['seconds']:,.0f} |" for s in steps
    ]
    return "\n".join([*lines, "", f"Report: {told['report']}", ""])


def _named(step: Mapping[str, Any]) -> str:
    return f"**{_escaped(step['model'])}**, {step['stage']}"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def junit(told: Mapping[str, Any]) -> bytes:
    """Return a summary as JUnit's XML: a suite for each model, a case for each stage, a failure for each regression."""
    from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

    xml = JUnitXml(told["audit"])
    for model in dict.fromkeys(s["model"] for s in told["steps"]):
        suite = TestSuite(model)
        for step in (s for s in told["steps"] if s["model"] == model):
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


def send_webhook(told: Mapping[str, Any], config: DestinationsSection) -> str | None:
    """Post a summary; return what went wrong, or None. Neither address nor token is in what is returned or logged."""
    import httpx2
    from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

    token, seconds = os.environ.get(WEBHOOK_TOKEN), config.webhook_seconds
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    retrying = Retrying(
        stop=stop_after_attempt(config.webhook_attempts),
        wait=wait_exponential(FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
        retry=retry_if_exception_type((httpx2.TransportError, _AnswerError)),
    )

    # Chats show this field, and ignore the others.
    content = {"text": f"Audit {told['audit']}: {told['headline']}"} | dict(told)

    def post() -> None:
        # What is answered besides the code is not read, however long it is.
        with httpx2.stream("POST", os.environ[WEBHOOK_URL], json=content, headers=headers, timeout=seconds) as answer:
            if not answer.is_success:
                raise _AnswerError(answer.status_code)

    # httpx logs the address of every request.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        retrying(post)
    except RetryError as error:
        last = error.last_attempt.exception()
        why = f"the answer was {last.code}" if isinstance(last, _AnswerError) else type(last).__name__
        return f"the webhook did not take the summary in {config.webhook_attempts} attempts: {why}"
    except Exception as error:
        return f"the webhook could not be called: {type(error).__name__}"
    return None


class _AnswerError(Exception):
    """The webhook's answer was not one of success."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def send_mlflow(told: Mapping[str, Any], config: DestinationsSection) -> str | None:
    """Log a night's key figures as a run of MLflow; return what went wrong, or None."""
    for variable, value in MLFLOW_LIMITS.items():
        os.environ.setdefault(variable, value)
    now, metrics = int(1000 * time.time()), []
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient(config.mlflow)
        experiment = client.get_experiment_by_name(config.mlflow_experiment)
        number = experiment.experiment_id if experiment else client.create_experiment(config.mlflow_experiment)
        tags = {"stratoscope.audit": told["audit"], "stratoscope.run_id": told["run_id"]}
        run = client.create_run(number, tags=tags, run_name=told["run_id"])
        for step in told["steps"]:
            client.set_tag(run.info.run_id, _metric_name(step["model"], step["stage"]), step["verdict"])
            for name, value in step["figures"].items():
                metrics.append(Metric(_metric_name(step["model"], step["stage"], name), value, now, 0))
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            client.log_batch(run.info.run_id, metrics[first : first + METRICS_AT_ONCE])
        client.set_terminated(run.info.run_id, "FAILED" if told["exit_code"] else "FINISHED")
    except Exception as error:  # whatever a server does, the night stands
        return f"MLflow did not take the key figures: {type(error).__name__}"
    return None


def _metric_name(*parts: str) -> str:
    return "/".join(REFUSED_NAME.sub("_", part.replace("/", "_")) for part in parts)[:250]
