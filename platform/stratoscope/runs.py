"""Runs as Python objects: a class for each job, with the job's tables as properties.

Each table is a `pyarrow.Table`; `.to_pandas()` makes a data frame of it. The columns are described in the reference of
tables. A property raises FileNotFoundError where the run has not written that table.
"""

from typing import ClassVar

import pyarrow as pa

from stratoscope.errors import EXIT_REGRESSION
from stratoscope.pipelines.runtime.run_lookup import find_run
from stratoscope.results import Run, Storage
from stratoscope.results import list_runs as list_run_states
from stratoscope.results.run import TableProperty


class ScoreRun(Run):
    """A run of the job `score`."""

    main_table: ClassVar[str] = "layer_scores"
    layer_scores = TableProperty()
    """Scores: one row per layer, tap and metric."""
    stability = TableProperty()
    """Split-half rank correlation: one row per metric and tap."""
    prompt_stats = TableProperty()
    """Sufficient statistics: one row per prompt, layer and tap."""
    shard_stats = TableProperty()
    """Sufficient statistics of large runs: one row per shard, layer and tap."""
    span_stats = TableProperty()
    """Cosines over spans of layers: one row per prompt and span."""
    shard_spans = TableProperty()
    """Cosines over spans of layers of large runs: one row per shard and span."""
    layers = TableProperty()
    """Layers of the model: one row per layer, with the number and norm of its weights."""
    errors = TableProperty()
    """Prompts that could not be scored."""


class HallucinationRun(Run):
    """A run of the job `hallucination`."""

    main_table: ClassVar[str] = "hallucination_scores"
    hallucination_scores = TableProperty()
    """Scores and tests: one row per data set, layer, tap and definition."""
    pair_stats = TableProperty()
    """Sufficient statistics: one row per answer, part, layer and tap."""
    answers = TableProperty()
    """Answers that were read: one row per answer."""
    generated = TableProperty()
    """The model's own answers: one row per question."""
    written = TableProperty()
    """Answers that vLLM generated: one row per question."""
    rates = TableProperty()
    """Shares of right and wrong among the model's own answers, by data set."""
    agreement = TableProperty()
    """Agreement of the definitions and taps on the order of layers."""
    separation = TableProperty()
    """Areas under the curve of right against wrong answers on held-out questions."""
    random_sets = TableProperty()
    """Areas under the curve of random sets of layers: one row per draw."""
    errors = TableProperty()
    """Questions that could not be read."""

    @property
    def scores(self) -> pa.Table:
        """The table `hallucination_scores`."""
        return self.hallucination_scores


class SearchRun(Run):
    """A run of the job `search`."""

    main_table: ClassVar[str] = "front"
    front = TableProperty()
    """Trials that no other beats, with held-out results."""
    trials = TableProperty()
    """Trials: one row per trial."""
    evaluations = TableProperty()
    """Item scores of target pruning: one row per set of dropped layers and item."""
    comparison = TableProperty()
    """Retention of target pruning: one row per set, part and task."""
    speed = TableProperty()
    """Speed of the exported model against the original, of target pruning."""
    outcomes = TableProperty()
    """Results of target eavss: one row per trial and data set."""

    @property
    def exported(self) -> str | None:
        """Folder of the pruned checkpoint, or None where none was written."""
        return self.manifest.facts.get("exported")


class MitigationRun(Run):
    """A run of the job `mitigation`."""

    main_table: ClassVar[str] = "evaluation"
    evaluation = TableProperty()
    """Results before and after, on held-out items: one row per model and metric."""
    comparison = TableProperty()
    """Differences between variants: one row per pair of variants and metric."""
    training = TableProperty()
    """Training: one row per step of each variant and seed."""
    variants = TableProperty()
    """Trained models: one row per variant and seed."""
    items = TableProperty()
    """Item scores: one row per model and item."""
    separation = TableProperty()
    """Distance of right and wrong answers: one row per model, data set and layer."""
    tuning = TableProperty()
    """Trials of the search for settings: one row per trial."""
    samples = TableProperty()
    """Texts that the unchanged model generated: one row per text."""
    errors = TableProperty()
    """Trainings that failed."""

    @property
    def models(self) -> list[str]:
        """Folders of the checkpoints that were written."""
        return list(self.manifest.facts.get("models", ()))


class FaithfulnessRun(Run):
    """A run of the job `faithfulness`."""

    main_table: ClassVar[str] = "cells"
    cells = TableProperty()
    """Errors: one row per fitted forecaster, perturbation and level."""
    worst_case = TableProperty()
    """Worst cases: one row per fitted forecaster, condition, norm and goal."""
    differences = TableProperty()
    """Differences between trainings of a forecaster, over seeds."""
    deviation_ratios = TableProperty()
    """Ratios of deviations over seeds: one row per forecaster, horizon, error and pair of trainings."""
    spreads = TableProperty()
    """Spread over seeds: one row per forecaster, training, horizon and metric."""
    forecasts = TableProperty()
    """Forecasts of one test window by every fitted forecaster."""
    epochs = TableProperty()
    """Training: one row per epoch of each fitted forecaster."""

    @property
    def verdicts(self) -> list[str]:
        """Conclusion on each forecaster, in words."""
        return list(self.manifest.facts.get("verdicts", ()))


class AuditRun(Run):
    """A run of the job `audit`: one night."""

    main_table: ClassVar[str] = "models"
    models = TableProperty()
    """Verdicts: one row per model or forecaster and stage."""
    figures = TableProperty()
    """Key figures: one row per model, stage and figure."""
    drift = TableProperty()
    """Shifts of layers since the previous night: one row per model, tap and layer."""

    @property
    def regressed(self) -> bool:
        """Whether a figure became worse beyond its threshold."""
        return self.manifest.exit_code == EXIT_REGRESSION


RUN_CLASSES: dict[str, type[Run]] = {
    "score": ScoreRun,
    "hallucination": HallucinationRun,
    "search": SearchRun,
    "mitigation": MitigationRun,
    "faithfulness": FaithfulnessRun,
    "audit": AuditRun,
}
"""Run classes by job; runs of other packages' jobs are a plain `Run`."""


def typed_run(run: Run) -> Run:
    """Return a run as the class of its job."""
    return RUN_CLASSES.get(run.manifest.job, Run)(run.storage, run.manifest)


def open_run(path_or_run_id: str, output: str = "runs") -> Run:
    """Open a run, finished or not.

    Args:
        path_or_run_id: folder or URL of the run, or its run_id under `output`.
        output: folder or URL that holds all runs.

    Returns:
        A ScoreRun, HallucinationRun, SearchRun, MitigationRun, FaithfulnessRun or AuditRun, by the job of the run; a
        plain Run for a job of another package.

    Raises:
        InputError: there is no such run, or there are several of that run_id.
    """
    return typed_run(Run(*find_run(str(path_or_run_id), output)))


def list_runs(output: str = "runs", job: str | None = None) -> list[Run]:
    """Return all runs of an output, ordered by job and run_id.

    Args:
        output: folder or URL that holds all runs.
        job: name of a job, to return only its runs.

    Raises:
        InputError: the output cannot be used.
    """
    storage = Storage(output)
    manifests = [state.manifest for state in list_run_states(output, job)]
    return [typed_run(Run(storage.child(manifest.job, manifest.run_id), manifest)) for manifest in manifests]
