"""The search space of training settings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from stratoscope.mitigation.training import TrainingSettings

LayersByNumber = Callable[[int | None], tuple[int, ...]]
"""Returns the layers of a variant for a number of flagged layers, or its own layers for None."""


@dataclass(frozen=True)
class TuningSpace:
    """The values that trials choose from, by setting; a setting without values is not searched."""

    choices: tuple[tuple[str, tuple[float, ...]], ...]

    def __call__(self, trial: Any) -> None:
        """Suggest a point to Optuna, as a define-by-run search space."""
        for name, values in self.choices:
            trial.suggest_categorical(name, list(values))

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(len(values) for _, values in self.choices)

    def points(self) -> list[dict[str, float]]:
        """Return all points; the values of the first setting change fastest."""
        names = [name for name, _ in reversed(self.choices)]
        combinations = product(*(values for _, values in reversed(self.choices)))
        return [dict(reversed(list(zip(names, point, strict=True)))) for point in combinations]


def apply_point(settings: TrainingSettings, point: Mapping[str, float], layers: LayersByNumber) -> TrainingSettings:
    """Return the settings of a training with the values of a point of the search space.

    Args:
        settings: settings of the variant; those that the point lacks are kept.
        point: values by setting.
        layers: returns the layers of the variant.
    """
    terms, optimizer = settings.terms, settings.optimizer
    weights = {name: float(point[name]) for name in ("contrastive", "forgetting") if name in point}
    number = point.get("num_layers")
    return replace(
        settings,
        trainable=replace(settings.trainable, layers=layers(None if number is None else int(number))),
        terms=replace(
            terms,
            weights=replace(terms.weights, **weights),
            temperature=float(point.get("temperature", terms.temperature)),
        ),
        optimizer=replace(optimizer, learning_rate=float(point.get("learning_rate", optimizer.learning_rate))),
    )
