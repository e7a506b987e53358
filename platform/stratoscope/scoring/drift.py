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

from stratoscope.pipelines.score.load_statistics import StatisticsTables
from stratoscope.results import Manifest, Storage, iter_table, read_table
from stratoscope.scoring import sparsity
from stratoscope.statistics import spearman
from stratoscope.statistics.randomization import max_t

Array = NDArray[np.float64]
Run = tuple[Storage, Manifest]
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
class _PairedScores:
    """Log AVSS by prompt."""

    prompts: list[str]
    values: dict[str, Array]
    """Shape (prompts, layers), by tap."""


def drift(now: Run, before: Run, *, level: float, least: float, seed: int) -> Drift | str:
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
    other = _other_settings(now[1], before[1])
    if other:
        return f"{other} differ"
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
        tuple(_reweighted(now, before)),
        {tap: spearman(later.values[tap].mean(axis=0), earlier.values[tap].mean(axis=0)) for tap in taps},
    )


def _seen(storage: Storage, manifest: Manifest) -> _PairedScores:
    """Return what a run keeps by prompt; of a large one, that is a sample of its prompts."""
    epsilons = tuple(manifest.facts["epsilons"])
    tables = StatisticsTables(storage, False, tuple(manifest.config["activations"]["taps"]), epsilons)
    values: dict[str, Array] = {}
    for tap in tables.taps:
        parts = []
        for _, statistics, _ in tables.read(tap):
            ratio = statistics.variance / sparsity(statistics.below[..., 0], statistics.count)
            parts.append(np.log(np.clip(ratio, 1e-300, None)))
        values[tap] = np.concatenate(parts)
    parts_of = (
        t.filter((pc.field("tap") == tables.taps[0]) & (pc.field("layer") == 0))
        for t in iter_table(storage, "prompt_stats")
    )
    prompts = [prompt for part in parts_of for prompt in part["prompt_id"].to_pylist()]
    whole = np.all([np.isfinite(v).all(axis=1) for v in values.values()], axis=0)
    kept = np.flatnonzero(whole)
    return _PairedScores([prompts[i] for i in kept], {tap: v[kept] for tap, v in values.items()})


def _paired(
    later: _PairedScores, earlier: _PairedScores, common: Sequence[str], taps: Sequence[str]
) -> tuple[Array, Array]:
    rows = [[place[name] for name in common] for place in (_places(later), _places(earlier))]
    y = np.hstack([later.values[tap][rows[0]] - earlier.values[tap][rows[1]] for tap in taps])
    return y, np.ones(len(y))


def _grouped(later: _PairedScores, earlier: _PairedScores, taps: Sequence[str]) -> tuple[Array, Array]:
    y = np.vstack([np.hstack([seen.values[tap] for tap in taps]) for seen in (later, earlier)])
    return y, np.repeat([1.0, 0.0], [len(later.prompts), len(earlier.prompts)])


def _places(seen: _PairedScores) -> dict[str, int]:
    return {prompt: index for index, prompt in enumerate(seen.prompts)}


def _other_settings(now: Manifest, before: Manifest) -> str | None:
    """Name what keeps prompts from being compared; their number and the seed that draws them may differ."""
    here, there = ({**m.config["prompts"], "limit": None} for m in (now, before))
    differing = [f"prompts.{name}" for name in here if here[name] != there.get(name)]
    if now.facts["epsilons"][0] != before.facts["epsilons"][0]:
        differing.append("activations.epsilons")
    return ", ".join(differing) or None


def _reweighted(now: Run, before: Run) -> Iterator[int]:
    """Yield layers whose weights have another norm, where weights differ at all."""
    prints = [manifest.fingerprints.get("weights") for _, manifest in (now, before)]
    if prints[0] == prints[1]:
        return
    later, earlier = (read_table(storage, "layers") for storage, _ in (now, before))
    here, there = (table["weight_norm"].to_numpy(zero_copy_only=False) for table in (later, earlier))
    for layer in np.flatnonzero(~np.isclose(here, there, rtol=1e-6, atol=0, equal_nan=True)):
        yield int(layer)
