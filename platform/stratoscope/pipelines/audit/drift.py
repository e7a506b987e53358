"""What changed in the layers of a model between two score runs, tested over all layers and taps at once.

On the same prompts it is the paired difference of each prompt's log AVSS; on other prompts of the same source, the
difference between two groups of prompts. Either way the largest of all effects is what a chance finding is measured by
(step-down max-T), for a test of each layer by itself would alert almost every night.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.pipelines.score.observed import StatisticsTables
from stratoscope.results import Manifest, Storage, read_table
from stratoscope.scoring import sparsity
from stratoscope.statistics import spearman
from stratoscope.statistics.randomization import max_t

Array = NDArray[np.float64]
FEWEST_PROMPTS = 8
DRAWS = 9999


@dataclass(frozen=True)
class LayerShift:
    """How much a layer's AVSS changed at a tap."""

    tap: str
    layer: int
    shift: float
    """Difference of mean log AVSS, later - earlier: 0.1 is about 10 % more."""
    low: float
    """Lower end of its interval, simultaneous over all layers and taps."""
    high: float
    p_value: float
    """Adjusted for all layers and taps."""
    moved: bool
    """Both sure and large enough to matter."""


@dataclass(frozen=True)
class Drift:
    """What changed between two score runs."""

    design: Literal["same prompts", "other prompts"]
    prompts: int
    """Of the later run that were compared."""
    shifts: tuple[LayerShift, ...]
    reweighted: tuple[int, ...]
    """Layers whose weights have another norm."""
    rank_correlation: dict[str, float]
    """Of the layers' AVSS between the runs, by tap."""

    @property
    def moved(self) -> list[int]:
        """Layers that moved at some tap, in order."""
        return sorted({shift.layer for shift in self.shifts if shift.moved})


@dataclass(frozen=True)
class _Seen:
    """Log AVSS by prompt."""

    prompts: list[str]
    values: dict[str, Array]
    """Shape (prompts, layers), by tap."""


def drift(
    now: tuple[Storage, Manifest], before: tuple[Storage, Manifest], *, level: float, least: float, seed: int
) -> Drift | str:
    """Compare two score runs.

    Args:
        now: the later run.
        before: the earlier one.
        level: chance that anything is said to have moved where nothing has.
        least: absolute shift below which a layer is not said to have moved.
        seed: of the randomisation.

    Returns:
        What changed, or why the runs cannot be compared.
    """
    later, earlier = _seen(*now), _seen(*before)
    taps = [tap for tap in later.values if tap in earlier.values]
    if not taps:
        return "the two runs read no tap in common"
    shapes = {seen.values[tap].shape[1] for seen in (later, earlier) for tap in taps}
    if len(shapes) > 1:
        return "the model has another number of layers"
    common = sorted(set(later.prompts) & set(earlier.prompts))
    paired = 2 * len(common) >= min(len(later.prompts), len(earlier.prompts))
    fewest = len(common) if paired else min(len(later.prompts), len(earlier.prompts))
    if fewest < FEWEST_PROMPTS:
        return f"{fewest} prompts are too few to compare"
    y, x = _paired(later, earlier, common, taps) if paired else _grouped(later, earlier, taps)
    design: Literal["paired", "grouped"] = "paired" if paired else "grouped"
    found = max_t(y, x, np.empty((len(y), 0)), design, draws=DRAWS, level=level, seed=seed)
    moved = (found.p_value <= level) & (np.abs(found.effect) >= least)
    num_layers = shapes.pop()
    columns = [values.tolist() for values in (found.effect, found.low, found.high, found.p_value, moved)]
    places = [(tap, layer) for tap in taps for layer in range(num_layers)]
    shifts = tuple(LayerShift(*place, *values) for place, *values in zip(places, *columns, strict=True))
    return Drift(
        "same prompts" if paired else "other prompts",
        len(common) if paired else len(later.prompts),
        shifts,
        tuple(_reweighted(now[0], before[0])),
        {tap: spearman(later.values[tap].mean(axis=0), earlier.values[tap].mean(axis=0)) for tap in taps},
    )


def _seen(storage: Storage, manifest: Manifest) -> _Seen:
    """Return what a run keeps by prompt; of a large one, that is a sample of its prompts."""
    epsilons = tuple(manifest.facts["epsilons"])
    tables = StatisticsTables(storage, False, tuple(manifest.config["activations"]["taps"]), epsilons)
    ids = read_table(storage, "prompt_stats")
    values: dict[str, Array] = {}
    for tap in tables.taps:
        parts = []
        for _, statistics, _ in tables.read(tap):
            ratio = statistics.variance / sparsity(statistics.below[..., 0], statistics.count)
            parts.append(np.log(np.clip(ratio, 1e-300, None)))
        values[tap] = np.concatenate(parts)
    first = ids.filter(pc.and_(pc.equal(ids["tap"], tables.taps[0]), pc.equal(ids["layer"], 0)))
    prompts = first["prompt_id"].to_pylist()
    whole = np.all([np.isfinite(v).all(axis=1) for v in values.values()], axis=0)
    kept = np.flatnonzero(whole)
    return _Seen([prompts[i] for i in kept], {tap: v[kept] for tap, v in values.items()})


def _paired(later: _Seen, earlier: _Seen, common: Sequence[str], taps: Sequence[str]) -> tuple[Array, Array]:
    rows = [[place[name] for name in common] for place in (_places(later), _places(earlier))]
    y = np.hstack([later.values[tap][rows[0]] - earlier.values[tap][rows[1]] for tap in taps])
    return y, np.ones(len(y))


def _grouped(later: _Seen, earlier: _Seen, taps: Sequence[str]) -> tuple[Array, Array]:
    y = np.vstack([np.hstack([seen.values[tap] for tap in taps]) for seen in (later, earlier)])
    return y, np.repeat([1.0, 0.0], [len(later.prompts), len(earlier.prompts)])


def _places(seen: _Seen) -> dict[str, int]:
    return {prompt: index for index, prompt in enumerate(seen.prompts)}


def _reweighted(now: Storage, before: Storage) -> Iterator[int]:
    later, earlier = (read_table(storage, "layers").to_pylist() for storage in (now, before))
    for new, old in zip(later, earlier, strict=True):
        if new["weight_norm"] != old["weight_norm"]:
            yield new["layer"]
