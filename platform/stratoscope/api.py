"""The jobs as Python functions.

Every function name is an imperative: the verb of the job (`score`, `search`, `mitigate`, `audit`), or a verb before its
name (`detect_hallucination`, `evaluate_faithfulness`).
"""

import warnings
from typing import Any, TypeVar

from stratoscope.config import (
    AuditConfig,
    FaithfulnessConfig,
    HallucinationConfig,
    MitigationConfig,
    ScoreConfig,
    SearchConfig,
)
from stratoscope.errors import InputError
from stratoscope.pipelines.jobs import JOBS
from stratoscope.pipelines.runtime.config import JobConfig, merged, validate
from stratoscope.results import Run
from stratoscope.runs import (
    AuditRun,
    FaithfulnessRun,
    HallucinationRun,
    MitigationRun,
    ScoreRun,
    SearchRun,
)

Config = TypeVar("Config", bound=JobConfig)
AnyRun = TypeVar("AnyRun", bound=Run)


def score(config: ScoreConfig | None = None, **overrides: Any) -> ScoreRun:
    """Rank the layers of a language model, as `stratoscope score` does.

    Args:
        config: configuration of the run; None starts from the defaults.
        **overrides: fields of the configuration, sections as dictionaries, such as
            `prompts={"source": "sciq", "limit": 64}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    return _perform("score", ScoreConfig, ScoreRun, config, overrides)


def search(config: SearchConfig | None = None, **overrides: Any) -> SearchRun:
    """Find layers that a model can do without, or thresholds that flag layers, as `stratoscope search` does.

    Args:
        config: configuration of the run; None starts from the defaults.
        **overrides: fields of the configuration, sections as dictionaries, such as
            `space={"ratios": [0.25]}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    return _perform("search", SearchConfig, SearchRun, config, overrides)


def detect_hallucination(config: HallucinationConfig | None = None, **overrides: Any) -> HallucinationRun:
    """Find layers whose activations differ between wrong and right answers, as `stratoscope hallucination` does.

    Args:
        config: configuration of the run; None starts from the defaults.
        **overrides: fields of the configuration, sections as dictionaries, such as
            `pairs={"source": ["sciq"], "limit": 100}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    return _perform("hallucination", HallucinationConfig, HallucinationRun, config, overrides)


def mitigate(config: MitigationConfig | None = None, **overrides: Any) -> MitigationRun:
    """Fine-tune hallucinating layers, or recover a model after layers were dropped, as `stratoscope mitigation` does.

    Args:
        config: configuration of the run; None starts from the defaults.
        **overrides: fields of the configuration, sections as dictionaries, such as
            `train={"max_steps": 40}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    return _perform("mitigation", MitigationConfig, MitigationRun, config, overrides)


def evaluate_faithfulness(config: FaithfulnessConfig | None = None, **overrides: Any) -> FaithfulnessRun:
    """Evaluate whether forecasts survive other seeds and perturbed inputs, as `stratoscope faithfulness` does.

    Args:
        config: configuration of the run; None starts from the defaults.
        **overrides: fields of the configuration, sections as dictionaries, such as
            `grid={"seeds": [1, 2, 3]}`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    return _perform("faithfulness", FaithfulnessConfig, FaithfulnessRun, config, overrides)


def audit(config: AuditConfig | None = None, **overrides: Any) -> AuditRun:
    """Run the jobs on many models, and compare the results with earlier nights, as `stratoscope audit` does.

    Args:
        config: configuration of the run; None starts from the defaults.
        **overrides: fields of the configuration, sections as dictionaries, such as
            `models=[{"source": "smollm2", "stages": ["score"]}]`.

    Raises:
        InputError: a field is unknown or wrong, or the input cannot be read.
    """
    return _perform("audit", AuditConfig, AuditRun, config, overrides)


def hallucination(**overrides: Any) -> HallucinationRun:
    """Call `detect_hallucination`; deprecated."""
    _warn("hallucination", "detect_hallucination")
    return detect_hallucination(**overrides)


def faithfulness(**overrides: Any) -> FaithfulnessRun:
    """Call `evaluate_faithfulness`; deprecated."""
    _warn("faithfulness", "evaluate_faithfulness")
    return evaluate_faithfulness(**overrides)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"stratoscope.{old} is deprecated; use stratoscope.{new}", DeprecationWarning, stacklevel=3)


def _perform(
    name: str, config_class: type[Config], run_class: type[AnyRun], config: Config | None, overrides: dict[str, Any]
) -> AnyRun:
    """Perform a job and return its run."""
    job = JOBS[name].maker(configured(config_class, config, overrides))
    job.perform()
    return run_class(job.context.storage, job.context.manifest)


def configured(config_class: type[Config], config: Config | None, overrides: dict[str, Any]) -> Config:
    """Return a configuration with overrides applied.

    Args:
        config_class: the job's configuration class.
        config: configuration to start from; None starts from the defaults.
        overrides: fields by name; a dictionary changes fields of a section, a section replaces it.

    Raises:
        InputError: a field is unknown or wrong, or `config` belongs to another job.
    """
    if config is not None and not isinstance(config, config_class):
        raise InputError(f"config must be a {config_class.__name__}, not a {type(config).__name__}")
    base = config.model_dump(exclude_unset=True) if config is not None else {}
    return validate(config_class, merged(base, overrides))
