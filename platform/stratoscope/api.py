"""The jobs as Python functions."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stratoscope.pipelines.config import validate
from stratoscope.pipelines.score import ScoreConfig, ScoreJob
from stratoscope.results import Manifest, Storage, read_table


@dataclass(frozen=True)
class ScoreRun:
    """A finished scoring run."""

    path: str
    """Its folder, or URL."""
    manifest: Manifest

    @property
    def layer_scores(self) -> pa.Table:
        """One row per layer, tap and metric."""
        return self.table("layer_scores")

    def table(self, name: str) -> pa.Table:
        """Read one of the run's tables, such as `prompt_stats` or `stability`."""
        return read_table(Storage(self.path), name)


def score(**fields: Any) -> ScoreRun:
    """Rank the layers of a model, as `stratoscope score` does.

    Args:
        **fields: the job's fields, sections as dictionaries, such as `prompts={"source": "sciq", "limit": 64}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    job = ScoreJob(validate(ScoreConfig, fields))
    job.perform()
    return ScoreRun(job.run.url, job.manifest)
