"""The space of candidates: a candidate is a layer score and a ratio, which together name the layers to drop."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring import METRICS, EpsilonKind, VarianceKind, num_dropped, select_layers

if TYPE_CHECKING:
    from optuna.trial import Trial

Objective = Literal["retention_raw", "retention_above_chance", "bits_per_byte", "likelihood", "mixed"]
LayerSet = tuple[int, ...]
"""Dropped layers in ascending order."""
SparsityThreshold = tuple[EpsilonKind, float]
"""The kind of a sparsity threshold, and its requested value."""


@dataclass(frozen=True)
class ScoreKey:
    """Identifies one vector of layer scores. Fields that the metric does not use are None."""

    metric: str
    tap: str | None = None
    variance: str | None = None
    epsilon_kind: str | None = None
    epsilon: float | None = None
    draw: int | None = None
    """Index of the draw, for the metric random."""
    span: int | None = None
    """Length of the spans, for the metric angular_distance."""


@dataclass(frozen=True, eq=False)
class LayerScores:
    """The layer scores under a key."""

    values: NDArray[np.float64]
    """Scores, shape (layers,)."""
    high_is_important: bool = True
    epsilon: float | None = None
    """Sparsity threshold as applied, after snapping to a bin edge."""

    def without(self, layers: Sequence[int]) -> "LayerScores":
        """Return the same scores without those of some layers, which are then never dropped."""
        values = self.values.copy()
        values[list(layers)] = np.nan
        return replace(self, values=values)


@dataclass(frozen=True)
class PruningCandidate:
    """One point of the space. Fields that the metric does not use are None."""

    metric: str
    tap: str | None
    variance: str | None
    epsilon_kind: str | None
    epsilon: float | None
    draw: int | None
    ratio: float
    contiguous: bool

    def key(self, num_layers: int) -> ScoreKey:
        """Return the key of the scores that it ranks layers by."""
        span = num_dropped(self.ratio, num_layers) if self.metric == "angular_distance" else None
        return ScoreKey(self.metric, self.tap, self.variance, self.epsilon_kind, self.epsilon, self.draw, span)

    def dropped(self, scores: Mapping[ScoreKey, LayerScores], num_layers: int) -> LayerSet:
        """Return the layers that it drops."""
        layer_scores = scores[self.key(num_layers)]
        return select_layers(
            layer_scores.values,
            self.ratio,
            contiguous=self.contiguous,
            high_is_important=layer_scores.high_is_important,
        )


@dataclass(frozen=True)
class PruningSpace:
    """All candidates. Optuna calls an instance as its define-by-run search space."""

    metrics: tuple[str, ...]
    taps: tuple[str, ...]
    ratios: tuple[float, ...]
    variances: tuple[VarianceKind, ...] = ("elementwise",)
    epsilons: tuple[float, ...] = ()
    """Absolute sparsity thresholds."""
    quantiles: tuple[float, ...] = ()
    """Sparsity thresholds as quantiles of |activation|."""
    contiguous: tuple[bool, ...] = (False,)
    draws: int = 1
    """Draws of the metric random."""

    @property
    def thresholds(self) -> list[SparsityThreshold]:
        """All sparsity thresholds, the absolute ones first."""
        absolute: list[SparsityThreshold] = [("absolute", value) for value in self.epsilons]
        return absolute + [("quantile", value) for value in self.quantiles]

    def __call__(self, trial: "Trial") -> None:
        """Suggest a candidate: only parameters that its metric uses and that have several choices."""
        metric = trial.suggest_categorical("metric", list(self.metrics))
        for name, choices in self._choices(metric).items():
            if name == "tap" or len(choices) > 1:
                trial.suggest_categorical(name, choices)

    def candidate(self, config: Mapping[str, Any]) -> PruningCandidate:
        """Return the candidate that a suggestion stands for; a missing parameter takes its first choice."""
        metric = config["metric"]
        values = {name: config.get(name, choices[0]) for name, choices in self._choices(metric).items()}
        threshold = {_threshold_name(t): t for t in self.thresholds}.get(values.get("threshold", ""), (None, None))
        return PruningCandidate(
            metric=metric,
            tap=values.get("tap"),
            variance=values.get("variance"),
            epsilon_kind=threshold[0],
            epsilon=threshold[1],
            draw=values.get("draw"),
            ratio=values["ratio"],
            contiguous=values.get("contiguous", False),
        )

    def config(self, candidate: PruningCandidate) -> dict[str, Any]:
        """Return the suggestion that stands for a candidate."""
        values = asdict(candidate)
        if candidate.epsilon_kind is not None:
            values["threshold"] = _threshold_name((candidate.epsilon_kind, candidate.epsilon))
        choices = self._choices(candidate.metric)
        suggested = {name: values[name] for name in choices if name == "tap" or len(choices[name]) > 1}
        return {"metric": candidate.metric} | suggested

    def grid(self) -> Iterator[PruningCandidate]:
        """Yield every candidate once."""
        for ratio, metric in product(self.ratios, self.metrics):
            choices = self._choices(metric) | {"ratio": [ratio]}
            for values in product(*choices.values()):
                yield self.candidate({"metric": metric} | dict(zip(choices, values, strict=True)))

    def starting_points(self) -> list[PruningCandidate]:
        """Return each metric's first candidate at each ratio, on the tap update where it is part of the space."""
        usual_tap = "update" if "update" in self.taps else self.taps[0]
        first: dict[tuple[str, float], PruningCandidate] = {}
        for candidate in self.grid():
            if candidate.tap in (None, usual_tap):
                first.setdefault((candidate.metric, candidate.ratio), candidate)
        return list(first.values())

    def _choices(self, name: str) -> dict[str, list[Any]]:
        """Return the parameters that a metric uses, with their choices.

        A metric that is not in the registry is an evaluation; it uses no statistics.
        """
        metric = METRICS.get(name)
        choices: dict[str, list[Any]] = {}
        if metric and metric.per_tap:
            choices["tap"] = list(self.taps)
        if metric and metric.uses_variance:
            choices["variance"] = list(self.variances)
        if metric and metric.uses_sparsity:
            choices["threshold"] = [_threshold_name(threshold) for threshold in self.thresholds]
        if name == "random":
            choices["draw"] = list(range(self.draws))
        choices["ratio"] = list(self.ratios)
        if name != "random":
            choices["contiguous"] = list(self.contiguous)
        return choices


def _threshold_name(threshold: tuple[str | None, float | None]) -> str:
    return f"{threshold[0]} {threshold[1]:g}"
