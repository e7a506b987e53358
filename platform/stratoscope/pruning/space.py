"""The space of candidates: which score, of which kind, drops how many layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stratoscope.pipelines.search.config import SpaceSection
from stratoscope.scoring import METRICS, EpsilonKind, num_dropped, select_layers

if TYPE_CHECKING:
    from optuna.trial import Trial

Threshold = tuple[EpsilonKind, float]
"""Whether a threshold is absolute or a quantile, and its value as asked for."""


@dataclass(frozen=True)
class ScoreKey:
    """One score per layer; what a metric does not use is None."""

    metric: str
    tap: str | None = None
    variance: str | None = None
    epsilon_kind: str | None = None
    epsilon: float | None = None
    draw: int | None = None
    """Of the metric random."""
    span: int | None = None
    """Length of the spans of the metric angular_distance."""


@dataclass(frozen=True, eq=False)
class LayerScores:
    """The scores under a key."""

    values: NDArray[np.float64]
    """Shape (layers,)."""
    high_is_important: bool = True
    epsilon: float | None = None
    """The threshold as applied."""


@dataclass(frozen=True)
class PruningCandidate:
    """One point of the space."""

    metric: str
    tap: str | None
    variance: str | None
    epsilon_kind: str | None
    epsilon: float | None
    draw: int | None
    ratio: float
    contiguous: bool

    def key(self, num_layers: int) -> ScoreKey:
        """Return the scores that it needs."""
        span = num_dropped(self.ratio, num_layers) if self.metric == "angular_distance" else None
        return ScoreKey(self.metric, self.tap, self.variance, self.epsilon_kind, self.epsilon, self.draw, span)

    def dropped(self, scores: Mapping[ScoreKey, LayerScores], num_layers: int) -> tuple[int, ...]:
        """Return the layers that it drops."""
        found = scores[self.key(num_layers)]
        return select_layers(
            found.values, self.ratio, contiguous=self.contiguous, high_is_important=found.high_is_important
        )


@dataclass(frozen=True)
class PruningSpace:
    """All candidates. An instance is what Optuna's define-by-run search calls."""

    section: SpaceSection

    def __call__(self, trial: "Trial") -> None:
        """Suggest a candidate; only what its metric uses is asked for."""
        section = self.section
        metric = trial.suggest_categorical("metric", section.metrics)
        needs = _needs(metric)
        if needs.tap:
            trial.suggest_categorical("tap", [str(tap) for tap in section.taps])
        if needs.variance and len(section.variance) > 1:
            trial.suggest_categorical("variance", list(section.variance))
        if needs.threshold and len(self._thresholds) > 1:
            trial.suggest_categorical("threshold", [_name(threshold) for threshold in self._thresholds])
        if metric == "random" and section.draws > 1:
            trial.suggest_categorical("draw", list(range(section.draws)))
        if len(section.ratios) > 1:
            trial.suggest_categorical("ratio", list(section.ratios))
        if metric != "random" and len(section.contiguous) > 1:
            trial.suggest_categorical("contiguous", list(section.contiguous))

    def candidate(self, config: Mapping[str, Any]) -> PruningCandidate:
        """Return the candidate of a suggestion; what it does not hold has one choice, or is not used."""
        section = self.section
        metric = config["metric"]
        needs = _needs(metric)
        named = {_name(threshold): threshold for threshold in self._thresholds}
        threshold = named[config["threshold"]] if "threshold" in config else next(iter(self._thresholds), None)
        epsilon = threshold if needs.threshold else None
        return PruningCandidate(
            metric=metric,
            tap=config.get("tap", str(section.taps[0])) if needs.tap else None,
            variance=config.get("variance", section.variance[0]) if needs.variance else None,
            epsilon_kind=epsilon[0] if epsilon else None,
            epsilon=epsilon[1] if epsilon else None,
            draw=config.get("draw", 0) if metric == "random" else None,
            ratio=config.get("ratio", section.ratios[0]),
            contiguous=bool(config.get("contiguous", metric != "random" and section.contiguous[0])),
        )

    def config(self, candidate: PruningCandidate) -> dict[str, Any]:
        """Return the suggestion that means a candidate."""
        section = self.section
        values = {f.name: getattr(candidate, f.name) for f in fields(candidate)}
        epsilon_kind, epsilon = values.pop("epsilon_kind"), values.pop("epsilon")
        if epsilon_kind is not None and len(self._thresholds) > 1:
            values["threshold"] = _name((epsilon_kind, epsilon))
        single = {
            "variance": len(section.variance) == 1,
            "draw": section.draws == 1,
            "ratio": len(section.ratios) == 1,
            "contiguous": len(section.contiguous) == 1 or candidate.metric == "random",
        }
        return {name: value for name, value in values.items() if value is not None and not single.get(name)}

    def grid(self) -> Iterator[PruningCandidate]:
        """Yield every candidate once."""
        section = self.section
        for ratio, metric in product(section.ratios, section.metrics):
            needs = _needs(metric)
            for tap, variance, threshold, draw, contiguous in product(
                [str(tap) for tap in section.taps] if needs.tap else [None],
                section.variance if needs.variance else [None],
                self._thresholds if needs.threshold else [(None, None)],
                range(section.draws) if metric == "random" else [None],
                section.contiguous if metric != "random" else [False],
            ):
                yield PruningCandidate(metric, tap, variance, *threshold, draw, ratio, contiguous)

    def starting_points(self) -> list[PruningCandidate]:
        """Return each metric's usual choice at each ratio: the tap update if it is searched, else the first of all."""
        taps = [str(tap) for tap in self.section.taps]
        usual = "update" if "update" in taps else taps[0]
        first: dict[tuple[str, float], PruningCandidate] = {}
        for candidate in self.grid():
            if candidate.tap in (None, usual):
                first.setdefault((candidate.metric, candidate.ratio), candidate)
        return list(first.values())

    @property
    def _thresholds(self) -> list[Threshold]:
        return thresholds(self.section)


@dataclass(frozen=True)
class _Needs:
    """What of the space a metric takes."""

    tap: bool = False
    variance: bool = False
    threshold: bool = False


def _needs(name: str) -> _Needs:
    """Return what a metric takes; one that is evaluated, not computed from statistics, takes nothing."""
    metric = METRICS.get(name)
    return _Needs(metric.per_tap, metric.uses_variance, metric.uses_sparsity) if metric else _Needs()


def thresholds(section: SpaceSection) -> list[Threshold]:
    """Return the sparsity thresholds of a space."""
    absolute: list[Threshold] = [("absolute", value) for value in section.epsilons]
    return absolute + [("quantile", value) for value in section.quantiles]


def _name(threshold: Threshold) -> str:
    return f"{threshold[0]} {threshold[1]:g}"
