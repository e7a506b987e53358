"""Prometheus metrics of actors, exported by Ray on every node."""

from ray.util.metrics import Counter, Histogram

BOUNDARIES = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]


class WorkMetrics:
    """Metrics of one actor, labelled with its job and model.

    Ray adds the prefix `ray_` to the names. docs/guides/clusters.md lists them with suggested alerts.

    Args:
        job: name of the job.
        model: name of the model, as configured.
    """

    def __init__(self, job: str, model: str) -> None:
        tags = {"job": job, "model": model}
        self._prompts = Counter("stratoscope_prompts", "Prompts measured.", tuple(tags))
        self._tokens = Counter("stratoscope_tokens", "Tokens of measured prompts, without padding.", tuple(tags))
        self._errors = Counter("stratoscope_errors", "Prompts that failed.", tuple(tags))
        self._seconds = Histogram("stratoscope_batch_seconds", "Seconds of a batch.", BOUNDARIES, tuple(tags))
        for metric in (self._prompts, self._tokens, self._errors, self._seconds):
            metric.set_default_tags(tags)

    def batch(self, prompts: int, tokens: int, seconds: float) -> None:
        """Count a measured batch."""
        self._prompts.inc(prompts)
        self._tokens.inc(tokens)
        self._seconds.observe(seconds)

    def errors(self, prompts: int) -> None:
        """Count prompts that could not be measured."""
        if prompts:
            self._errors.inc(prompts)
