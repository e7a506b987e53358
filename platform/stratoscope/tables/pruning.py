"""The tables of a search with target pruning."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import pyarrow as pa

from stratoscope.evaluation import Estimate, ItemScore
from stratoscope.models.speed import SpeedComparison
from stratoscope.pruning import Evaluation, LayerSet, ModelSize, PruningCandidate, TaskComparison, TrialResult
from stratoscope.results import ByTask, Int32, TableRow

NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class EvaluationRow(TableRow):
    """One row per set of dropped layers, item and metric; only a task with several filters has several metrics."""

    dropped_layers: tuple[Int32, ...]
    """Dropped layers; empty for the whole model."""
    part: str
    """Part of the items: search, text (the language-model text of the search alone) or held_out."""
    task: str
    """Name of the task."""
    metric: str
    """Metric of the task; with several filters, one for each, such as `exact_match,strict-match`."""
    item_id: str
    """Digest that identifies the item."""
    value: float
    """Correct answers: 0 or 1, or the number of correct tokens for language-model text; null where logits are not
    finite."""
    weight: float
    """Possible correct answers: 1, or the number of tokens for language-model text."""
    log_likelihood: float | None
    """Log-likelihood of the text or target; null where an item has several."""
    num_bytes: int | None
    """Bytes of language-model text; null for other tasks."""
    log_probability: float | None
    """Log-probability of the right answer: among the choices, or of the only target; null for text and generation."""

    @classmethod
    def from_score(cls, dropped: LayerSet, part: str, score: ItemScore) -> Self:
        """Return the row of an item."""
        return cls(dropped_layers=dropped, part=part, **vars(score))

    def to_score(self) -> ItemScore:
        """Return the item's score."""
        return ItemScore(**{field.name: getattr(self, field.name) for field in fields(ItemScore)})


@dataclass(frozen=True)
class PruningTrialRow(TableRow):
    """One row per trial, in order."""

    trial_id: str
    """Number of the trial."""
    target: str
    """Target of the search, pruning."""
    origin: str
    """Origin of the trial: starting point, the algorithm, or swap for the swaps after another algorithm."""
    tap: str | None
    """Tap of the score; null where the metric has none."""
    metric: str
    """Metric whose scores selected the layers; the origin where no score did."""
    variance: str | None
    """Kind of variance; null where the metric uses none."""
    epsilon_kind: str | None
    """Kind of the sparsity threshold, absolute or quantile; null where the metric uses none."""
    epsilon: float | None
    """Sparsity threshold as applied; null where the metric uses none."""
    draw: Int32 | None
    """Index of the draw of the metric random; null for other metrics."""
    ratio: float
    """Share of layers to drop."""
    contiguous: bool | None
    """Whether the dropped layers had to form one span; null where no score selected them."""
    dropped_layers: tuple[Int32, ...]
    """Dropped layers."""
    accuracy: ByTask
    """Accuracy on the items of the search, a column per task."""
    retention_raw: float | None
    """Raw retention, averaged over tasks."""
    retention_raw_low: float | None
    """Lower end of its interval."""
    retention_raw_high: float | None
    """Upper end of its interval."""
    retention_above_chance: float | None
    """Retention above chance, averaged over tasks; null where no task has one."""
    bits_per_byte: float | None
    """Bits per byte, averaged over tasks of language-model text; null where there are none."""
    objective: float | None
    """Objective of the search, which is maximised."""
    best_objective: float | None
    """Best objective so far among sets of as many layers on as many items; null before the first."""
    likelihood: float | None
    """Share of the right answers' probability that is kept, averaged over tasks; null where no task has one."""
    share_of_items: float
    """Share of the search's items that the trial was evaluated on."""
    parameters: int
    """Number of parameters without the dropped layers."""
    tokens_per_s: float
    """Speed in forward passes without the dropped layers, in tokens per second."""
    speed: float | None
    """Speed against the whole model's: median ratio of paired forward passes; above 1 is faster."""
    speed_low: float | None
    """Least ratio of a pair."""
    speed_high: float | None
    """Greatest ratio of a pair."""
    seconds: float | None
    """Duration of the trial."""
    status: str
    """done, stopped (evaluated on the first items only) or error."""
    error: str | None
    """Error message of a failed trial."""

    @classmethod
    def from_trial(
        cls,
        trial: TrialResult,
        size: ModelSize,
        speeds: Mapping[int, SpeedComparison],
        best_objective: float | None = None,
    ) -> Self:
        """Return the row of a trial.

        Args:
            trial: the result.
            size: size of the whole model.
            speeds: speed against the whole model, by the number of parameters.
            best_objective: best objective so far among trials of its kind.
        """
        evaluation = trial.evaluation
        parameters = size.without(trial.dropped)
        speed = speeds[parameters]
        return cls(
            trial_id=trial.trial_id,
            target="pruning",
            origin=trial.origin,
            **_candidate_columns(trial, len(size.by_layer)),
            dropped_layers=trial.dropped,
            accuracy=evaluation.accuracy if evaluation else {},
            **_interval_columns("retention_raw", evaluation.raw if evaluation else NO_ESTIMATE),
            retention_above_chance=evaluation.above_chance.value if evaluation else None,
            bits_per_byte=evaluation.bits_per_byte if evaluation else None,
            objective=trial.objective,
            best_objective=best_objective,
            likelihood=evaluation.likelihood if evaluation else None,
            share_of_items=trial.share_of_items,
            parameters=parameters,
            tokens_per_s=speed.after,
            speed=speed.gain,
            speed_low=speed.gain_low,
            speed_high=speed.gain_high,
            seconds=evaluation.seconds if evaluation else None,
            status=trial.status,
            error=trial.error,
        )


@dataclass(frozen=True)
class FrontRow(PruningTrialRow):
    """One row per trial of the Pareto front, the smallest set first: its row of `trials`, and held-out results."""

    held_out_raw: float | None
    """Raw retention on held-out items, averaged over tasks."""
    held_out_raw_low: float | None
    """Lower end of its interval."""
    held_out_raw_high: float | None
    """Upper end of its interval."""
    held_out_above_chance: float | None
    """Retention above chance on held-out items, averaged over tasks; null where no task has one."""
    held_out_above_chance_low: float | None
    """Lower end of its interval."""
    held_out_above_chance_high: float | None
    """Upper end of its interval."""
    chosen: bool
    """Whether this set is the chosen one."""

    @classmethod
    def from_row(cls, row: PruningTrialRow, held_out: Evaluation, *, chosen: bool) -> Self:
        """Return a trial's row with its evaluation on held-out items."""
        return cls(
            **vars(row),
            **_interval_columns("held_out_raw", held_out.raw),
            **_interval_columns("held_out_above_chance", held_out.above_chance),
            chosen=chosen,
        )


@dataclass(frozen=True)
class ComparisonRow(TableRow):
    """One row per set of dropped layers, part of the items and task: the set compared with the whole model."""

    kind: str
    """Role of the set: chosen, front, reference, random or trial."""
    dropped_layers: tuple[Int32, ...]
    """Dropped layers."""
    part: str
    """Part of the items: search or held_out."""
    task: str
    """Name of the task."""
    metric: str
    """Metric of the task; a task with several filters has a row for each."""
    items: int
    """Number of items."""
    chance: float
    """Accuracy of guessing."""
    before: float
    """Accuracy of the whole model."""
    after: float
    """Accuracy without the dropped layers."""
    difference_low: float
    """Lower end of the interval of after - before."""
    difference_high: float
    """Upper end of the interval of after - before."""
    within_noise: bool
    """Whether that interval contains 0, or too few items differ to show a difference."""
    bits_per_byte_before: float | None
    """Bits per byte of the whole model; null except for language-model text."""
    bits_per_byte_after: float | None
    """Bits per byte without the dropped layers; null except for language-model text."""
    raw: float | None
    """Raw retention, after / before; null where before is 0."""
    raw_low: float | None
    """Lower end of its interval."""
    raw_high: float | None
    """Upper end of its interval."""
    above_chance: float | None
    """Retention above chance; null where the whole model is not 2 standard errors above chance."""
    above_chance_low: float | None
    """Lower end of its interval."""
    above_chance_high: float | None
    """Upper end of its interval."""

    @classmethod
    def from_comparison(cls, comparison: TaskComparison) -> Self:
        """Return the row of a comparison."""
        retention = comparison.retention
        return cls(
            kind=comparison.kind,
            dropped_layers=comparison.dropped,
            part=comparison.part,
            task=comparison.task,
            metric=comparison.metric,
            items=comparison.num_items,
            chance=comparison.chance,
            before=retention.before.value,
            after=retention.after.value,
            difference_low=retention.difference.low,
            difference_high=retention.difference.high,
            within_noise=retention.within_noise,
            bits_per_byte_before=comparison.bits_per_byte_before,
            bits_per_byte_after=comparison.bits_per_byte_after,
            **_interval_columns("raw", retention.raw),
            **_interval_columns("above_chance", retention.above_chance),
        )


@dataclass(frozen=True)
class SpeedRow(TableRow, SpeedComparison):
    """One row per measurement of the exported model against the original: medians of paired runs."""


TABLES: dict[str, type[TableRow]] = {
    "trials": PruningTrialRow,
    "front": FrontRow,
    "comparison": ComparisonRow,
    "evaluations": EvaluationRow,
    "speed": SpeedRow,
}


def evaluation_table(dropped: LayerSet, part: str, scores: Iterable[ItemScore]) -> pa.Table:
    """Return the rows of a set of dropped layers."""
    return EvaluationRow.table(EvaluationRow.from_score(dropped, part, score) for score in scores)


def _candidate_columns(trial: TrialResult, num_layers: int) -> dict[str, Any]:
    """Return the columns of a trial's candidate; a trial without one is named after its origin."""
    if trial.candidate is not None:
        return vars(trial.candidate)
    unused = dict.fromkeys(field.name for field in fields(PruningCandidate))
    return unused | {"metric": trial.origin, "ratio": len(trial.dropped) / num_layers}


def _interval_columns(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
