"""The jobs as Python functions."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stratoscope.pipelines.audit import AuditConfig, AuditJob
from stratoscope.pipelines.faithfulness import FaithfulnessConfig, FaithfulnessJob
from stratoscope.pipelines.hallucination import HallucinationConfig, HallucinationJob
from stratoscope.pipelines.mitigation import MitigationConfig, MitigationJob
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.job import EXIT_REGRESSION
from stratoscope.pipelines.score import ScoreConfig, ScoreJob
from stratoscope.pipelines.search import SearchConfig
from stratoscope.pipelines.search.targets import Search
from stratoscope.results import Manifest, Storage, read_table


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: str
    """Its folder, or URL."""
    manifest: Manifest

    def table(self, name: str) -> pa.Table:
        """Read one of the run's tables, such as `prompt_stats` or `trials`."""
        return read_table(Storage(self.path), name)


@dataclass(frozen=True)
class ScoreRun(Run):
    """A finished scoring run."""

    @property
    def layer_scores(self) -> pa.Table:
        """One row per layer, tap and metric."""
        return self.table("layer_scores")


@dataclass(frozen=True)
class HallucinationRun(Run):
    """A finished hallucination run."""

    @property
    def scores(self) -> pa.Table:
        """One row per data set, layer, tap and definition."""
        return self.table("hallucination_scores")


@dataclass(frozen=True)
class SearchRun(Run):
    """A finished search."""

    @property
    def front(self) -> pa.Table:
        """The sets of layers that no other beats, with what they keep on held-out items."""
        return self.table("front")

    @property
    def exported(self) -> str | None:
        """Folder of the pruned checkpoint, or None where none was written."""
        return self.manifest.facts.get("exported")


@dataclass(frozen=True)
class MitigationRun(Run):
    """A finished mitigation run."""

    @property
    def evaluation(self) -> pa.Table:
        """One row per model and metric: before and after, on held-out items."""
        return self.table("evaluation")

    @property
    def models(self) -> list[str]:
        """Folders of the checkpoints that were written."""
        return list(self.manifest.facts["models"])


@dataclass(frozen=True)
class FaithfulnessRun(Run):
    """A finished faithfulness run."""

    @property
    def cells(self) -> pa.Table:
        """One row per fitted forecaster, perturbation and level."""
        return self.table("cells")

    @property
    def verdicts(self) -> list[str]:
        """What each forecaster survives, in words."""
        return list(self.manifest.facts["verdicts"])


@dataclass(frozen=True)
class AuditRun(Run):
    """A finished night."""

    @property
    def models(self) -> pa.Table:
        """One row per model and stage: verdict, what changed, what got worse."""
        return self.table("models")

    @property
    def regressed(self) -> bool:
        """Whether anything got worse beyond its threshold."""
        return self.manifest.exit_code == EXIT_REGRESSION


def score(**fields: Any) -> ScoreRun:
    """Rank the layers of a model, as `stratoscope score` does.

    Args:
        **fields: the job's fields, sections as dictionaries, such as `prompts={"source": "sciq", "limit": 64}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    job = ScoreJob(validate(ScoreConfig, fields))
    job.perform()
    return ScoreRun(job.context.url, job.context.manifest)


def search(**fields: Any) -> SearchRun:
    """Find layers that a model can do without, or what flags hallucinating ones, as `stratoscope search` does.

    Args:
        **fields: the job's fields, sections as dictionaries, such as `space={"ratios": [0.25]}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    job = Search()(validate(SearchConfig, fields))
    job.perform()
    return SearchRun(job.context.url, job.context.manifest)


def hallucination(**fields: Any) -> HallucinationRun:
    """Find layers that react to wrong answers, as `stratoscope hallucination` does.

    Args:
        **fields: the job's fields, sections as dictionaries, such as `pairs={"source": ["sciq"], "limit": 100}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    job = HallucinationJob(validate(HallucinationConfig, fields))
    job.perform()
    return HallucinationRun(job.context.url, job.context.manifest)


def mitigate(**fields: Any) -> MitigationRun:
    """Mend a model in its hallucinating layers, or heal it after layers were dropped, as `stratoscope mitigation` does.

    Args:
        **fields: the job's fields, sections as dictionaries, such as `train={"max_steps": 40}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    job = MitigationJob(validate(MitigationConfig, fields))
    job.perform()
    return MitigationRun(job.context.url, job.context.manifest)


def faithfulness(**fields: Any) -> FaithfulnessRun:
    """See whether forecasts survive another seed and perturbed inputs, as `stratoscope faithfulness` does.

    Args:
        **fields: the job's fields, sections as dictionaries, such as `grid={"seeds": [1, 2, 3]}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    job = FaithfulnessJob(validate(FaithfulnessConfig, fields))
    job.perform()
    return FaithfulnessRun(job.context.url, job.context.manifest)


def audit(**fields: Any) -> AuditRun:
    """Look into many models and forecasters, and compare with the nights before, as `stratoscope audit` does.

    Args:
        **fields: the job's fields, such as `models=[{"source": "smollm2", "stages": ["score"]}]`.

    Raises:
        InputError: a field is unknown or wrong, or a model is not there.
    """
    job = AuditJob(validate(AuditConfig, fields))
    job.perform()
    return AuditRun(job.context.url, job.context.manifest)
