"""Drift of a model's layers between two sets of scores, tested over all layers and taps at once.

On the same prompts, the test is of the paired differences of each prompt's log AVSS; on other prompts of the same
source, of the difference between two groups of prompts. Step-down max-T adjusts p-values for all layers and taps, since
separate tests of each layer would raise a false alarm almost every time. The design is ours.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.measures import sparsity
from stratoscope.statistics import Statistics, max_t, not_shown, spearman

Array = NDArray[np.float64]
MIN_PROMPTS = 8
DRAWS = 9999


class NotComparableError(ValueError):
    """Two sets of scores cannot be compared; the message gives the reason."""


@dataclass(frozen=True)
class PromptScores:
    """Log AVSS of each prompt, layer and tap."""

    prompts: list[str]
    """Ids of the prompts."""
    values: dict[str, Array]
    """Log AVSS by tap, shape (prompts, layers)."""
    unread: frozenset[tuple[str, int]] = frozenset()
    """Taps and layers without any activations; their values mean nothing."""
    left_out: int = 0
    """Number of prompts that were left out because a score is NaN or infinite."""

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "PromptScores":
        """Return the scores of the prompts at the given rows, in that order."""
        prompts = [self.prompts[row] for row in rows]
        return replace(self, prompts=prompts, values={tap: v[rows] for tap, v in self.values.items()})

    def select(self, prompts: Sequence[str]) -> "PromptScores":
        """Return the scores of the given prompts, in that order."""
        rows = {prompt: row for row, prompt in enumerate(self.prompts)}
        return self.take([rows[prompt] for prompt in prompts])

    def finite(self) -> "PromptScores":
        """Return the scores of the prompts whose scores are all finite."""
        finite = np.all([np.isfinite(values).all(axis=1) for values in self.values.values()], axis=0)
        return replace(self.take(np.flatnonzero(finite)), left_out=int((~finite).sum()))


@dataclass(frozen=True)
class LayerShift:
    """Change of a layer's AVSS at a tap."""

    tap: str
    layer: int
    shift: float
    """Difference of mean log AVSS, later - earlier; 0.1 is about 10 % more."""
    low: float
    """Lower end of the interval, simultaneous over all layers and taps."""
    high: float
    """Upper end of the interval."""
    p_value: float
    """P-value, adjusted for all layers and taps."""
    moved: bool
    """Whether the shift is significant and at least as large as the smallest relevant shift."""


@dataclass(frozen=True)
class Drift:
    """Changes of a model's layers between two sets of scores."""

    design: Literal["same prompts", "other prompts"]
    prompts: int
    """Number of the later run's prompts in the comparison."""
    shifts: tuple[LayerShift, ...]
    rank_correlation: dict[str, float]
    """Spearman correlation of the layers' AVSS between the two runs, by tap; NaN where it is not defined."""
    level: float
    """Level of the test."""
    least_p: float
    """Smallest p-value that this number of prompts and draws allows."""
    reweighted: tuple[int, ...] = ()
    """Layers whose weights have a different norm."""
    notes: tuple[str, ...] = ()
    """What was left out of the comparison, in words."""

    @property
    def limit(self) -> str | None:
        """A clause saying that no move could be significant; None if one could."""
        return not_shown(f"{self.prompts} prompts", self.least_p) if self.least_p > self.level else None

    @property
    def moved(self) -> list[int]:
        """Layers that moved at any tap, in order."""
        return sorted({shift.layer for shift in self.shifts if shift.moved})

    @property
    def max_shift(self) -> float:
        """Largest absolute shift of a layer that moved; 0 where none moved."""
        return max((abs(shift.shift) for shift in self.shifts if shift.moved), default=0.0)


def log_avss(statistics: Statistics) -> Array:
    """Return log AVSS at the first epsilon, of statistics of shape (prompts, layers).

    It is 0 where a layer has no activations at the tap (see `PromptScores.unread`).
    """
    ratio = statistics.variance / sparsity(statistics.below[..., 0], statistics.count)
    logarithm: Array = np.log(np.clip(ratio, 1e-300, None))
    return np.where(statistics.count + statistics.nonfinite > 0, logarithm, 0.0)


def compare_layers(now: PromptScores, before: PromptScores, *, level: float, min_shift: float, seed: int) -> Drift:
    """Test which layers moved between two sets of scores.

    Prompts are paired if at least half of the smaller set occurs in both.

    Args:
        now: scores of the later run.
        before: scores of the earlier run.
        level: probability that any layer is reported as moved although none has.
        min_shift: smallest absolute shift that counts as a move.
        seed: seed of the randomization test.

    Raises:
        NotComparableError: the runs have no tap in common, other numbers of layers, or too few prompts.
    """
    taps = [tap for tap in now.values if tap in before.values]
    num_layers = _common_num_layers(now, before, taps)
    unread = now.unread | before.unread
    notes = tuple(_left_out(now, before, taps))
    now, before = _blank(now, unread), _blank(before, unread)
    shared = sorted(set(now.prompts) & set(before.prompts))
    smaller = min(len(now.prompts), len(before.prompts))
    paired = 2 * len(shared) >= smaller
    num_prompts = len(shared) if paired else smaller
    if num_prompts < MIN_PROMPTS:
        raise NotComparableError("; ".join([f"{num_prompts} prompts are too few to compare", *notes]))
    y, x = _paired_design(now, before, shared, taps) if paired else _grouped_design(now, before, taps)
    no_covariates = np.empty((len(y), 0))
    test = max_t(y, x, no_covariates, "paired" if paired else "grouped", draws=DRAWS, level=level, seed=seed)
    moved = (test.p_value <= level) & (np.abs(test.effect) >= min_shift)
    columns = [values.tolist() for values in (test.effect, test.low, test.high, test.p_value, moved)]
    places = [(tap, layer) for tap in taps for layer in range(num_layers)]
    return Drift(
        design="same prompts" if paired else "other prompts",
        prompts=len(shared) if paired else len(now.prompts),
        shifts=tuple(LayerShift(*place, *values) for place, *values in zip(places, *columns, strict=True)),
        rank_correlation={tap: _rank_correlation(now, before, tap, unread) for tap in taps},
        level=level,
        least_p=test.least_p,
        notes=notes,
    )


def changed_norms(now: Array, before: Array) -> tuple[int, ...]:
    """Return the layers whose weight norm differs by more than rounding."""
    return tuple(np.flatnonzero(~np.isclose(now, before, rtol=1e-6, atol=0, equal_nan=True)).tolist())


def _common_num_layers(now: PromptScores, before: PromptScores, taps: Sequence[str]) -> int:
    if not taps:
        raise NotComparableError("the two runs read no tap in common")
    num_layers, *others = {scores.values[tap].shape[1] for scores in (now, before) for tap in taps}
    if others:
        raise NotComparableError("the model has another number of layers")
    return int(num_layers)


def _left_out(now: PromptScores, before: PromptScores, taps: Sequence[str]) -> Iterator[str]:
    """Yield in words which prompts and layers cannot be compared."""
    for name, scores in (("this", now), ("the earlier", before)):
        if scores.left_out:
            total = scores.left_out + len(scores.prompts)
            yield f"{scores.left_out} of {total} prompts of {name} run have scores that are NaN or infinite"
    for tap in taps:
        layers = sorted(layer for own, layer in now.unread ^ before.unread if own == tap)
        if layers:
            yield f"layers {', '.join(map(str, layers))} at tap {tap} have activations in only one of the runs"


def _rank_correlation(now: PromptScores, before: PromptScores, tap: str, unread: Collection[tuple[str, int]]) -> float:
    """Return the correlation over the layers that both runs could read; NaN with fewer than two."""
    later, earlier = (scores.values[tap].mean(axis=0) for scores in (now, before))
    read = [layer for layer in range(len(later)) if (tap, layer) not in unread]
    return spearman(later[read], earlier[read]) if len(read) > 1 else float("nan")


def _blank(scores: PromptScores, unread: Collection[tuple[str, int]]) -> PromptScores:
    """Return scores that are 0 at some taps and layers, so that these do not move."""
    values = {tap: own.copy() for tap, own in scores.values.items()}
    for tap, layer in unread:
        if tap in values:
            values[tap][:, layer] = 0.0
    return replace(scores, values=values)


def _paired_design(
    now: PromptScores, before: PromptScores, shared: Sequence[str], taps: Sequence[str]
) -> tuple[Array, Array]:
    later, earlier = now.select(shared), before.select(shared)
    y = np.hstack([later.values[tap] - earlier.values[tap] for tap in taps])
    return y, np.ones(len(y))


def _grouped_design(now: PromptScores, before: PromptScores, taps: Sequence[str]) -> tuple[Array, Array]:
    y = np.vstack([np.hstack([scores.values[tap] for tap in taps]) for scores in (now, before)])
    return y, np.repeat([1.0, 0.0], [len(now.prompts), len(before.prompts)])
