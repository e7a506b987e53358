"""The variants of a mitigation run: the layers that each variant trains, and those that it drops beforehand."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.errors import InputError

FLAGGED, RANDOM, EVERY, GIVEN = "flagged", "random", "all", "given"
BASE = "base"
NUMBERS = re.compile(r"\[?\s*\d+(\s*,\s*\d+)*\s*\]?")

LayersBySeed = Callable[[int], tuple[int, ...]]


@dataclass(frozen=True)
class Variant:
    """A model that a run trains."""

    name: str
    seed: int
    layers: tuple[int, ...]
    """Layers to train, as the whole model numbers them."""
    dropped: tuple[int, ...] = ()
    """Layers to drop before training."""

    @property
    def key(self) -> str:
        """Name of the variant in files and folders."""
        return f"{self.name}-{self.seed}"

    @property
    def change(self) -> str:
        """What training did to the base model, as worded in the names of checkpoints."""
        return f"{'recovered' if self.dropped else 'fine-tuned'}-{self.key}"

    @property
    def pruned_key(self) -> str:
        """Name of the pruned model before training; variants that drop the same layers share it."""
        return f"pruned-{'-'.join(map(str, self.dropped))}"


@dataclass(frozen=True)
class LayerFlag:
    """The score of one layer in one data set of a hallucination run."""

    dataset: str
    layer: int
    flagged: bool
    propensity: float


def parse_layers(text: str, num_layers: int, field: str) -> tuple[int, ...] | None:
    """Return the layers of a list of numbers, or None if the text is not such a list.

    Args:
        text: numbers such as `3,5,7`, or `all`.
        num_layers: number of layers of the model.
        field: name of the field that holds the text, for messages.

    Raises:
        InputError: the model has no layer of a number.
    """
    if text == EVERY:
        return tuple(range(num_layers))
    if not NUMBERS.fullmatch(text):
        return None
    layers = sorted({int(number) for number in re.findall(r"\d+", text)})
    if layers[-1] >= num_layers:
        raise InputError(f"{field}: there is no layer {layers[-1]}; the layers are 0 to {num_layers - 1}")
    return tuple(layers)


def rank_flagged(flags: Sequence[LayerFlag], num_layers: int, limit: int | None) -> tuple[int, ...]:
    """Return flagged layers in ascending order.

    Args:
        flags: one for each data set and layer; if there are several, the first counts.
        num_layers: number of layers of the model.
        limit: number of layers to return: those that most data sets flag, then those of the highest mean propensity;
            None returns the layers that any data set flags.
    """
    first = {(flag.dataset, flag.layer): flag for flag in reversed(flags)}
    by_layer = [[flag for flag in first.values() if flag.layer == layer] for layer in range(num_layers)]
    counts = [sum(flag.flagged for flag in layer_flags) for layer_flags in by_layer]
    if limit is None:
        return tuple(layer for layer in range(num_layers) if counts[layer])
    propensity = [np.mean([flag.propensity for flag in layer_flags]) for layer_flags in by_layer]
    order = sorted(range(num_layers), key=lambda layer: (-counts[layer], -propensity[layer], layer))
    return tuple(sorted(order[:limit]))


def random_layers(num_layers: int, flagged: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Return as many random layers as are flagged: drawn from the others, or from all if the others are too few."""
    others = [layer for layer in range(num_layers) if layer not in flagged]
    pool = others if len(others) >= len(flagged) else list(range(num_layers))
    return tuple(sorted(np.random.default_rng(seed).permutation(pool)[: len(flagged)].tolist()))


def resized_layers(
    variant: Variant, flagged: Mapping[int, tuple[int, ...]], num_layers: int, number: int | None
) -> tuple[int, ...]:
    """Return the layers of a variant if it trains another number of flagged layers.

    Args:
        variant: a variant of flagged or random layers.
        flagged: flagged layers by their number.
        num_layers: number of layers of the model.
        number: number of flagged layers; None returns the variant's own layers.
    """
    if number is None:
        return variant.layers
    return flagged[number] if variant.name == FLAGGED else random_layers(num_layers, flagged[number], variant.seed)


def fine_tuning_variants(
    names: Sequence[str], flagged: tuple[int, ...], num_layers: int, seeds: Sequence[int]
) -> list[Variant]:
    """Return the variants of fine-tuning, once for each seed.

    Args:
        names: flagged or given, for the layers as they are; random, for as many others; all.
        flagged: the flagged or given layers.
        num_layers: number of layers of the model.
        seeds: the seeds.
    """
    return [Variant(name, seed, _layers(name, flagged, num_layers, seed)) for name in names for seed in seeds]


def _layers(name: str, flagged: tuple[int, ...], num_layers: int, seed: int) -> tuple[int, ...]:
    if name == EVERY:
        return tuple(range(num_layers))
    return random_layers(num_layers, flagged, seed) if name == RANDOM else flagged


def recovery_variants(
    dropped: Mapping[str, LayersBySeed], layers: tuple[int, ...] | None, num_layers: int, seeds: Sequence[int]
) -> list[Variant]:
    """Return the variants of recovery after pruning: one for each choice of dropped layers and each seed.

    Args:
        dropped: choices of dropped layers by name; each may depend on the seed.
        layers: layers to train, where they remain; None trains all remaining layers.
        num_layers: number of layers of the whole model.
        seeds: the seeds.

    Raises:
        InputError: all layers to train are dropped.
    """
    variants = []
    for name, choose in dropped.items():
        for seed in seeds:
            drop = choose(seed)
            wanted = range(num_layers) if layers is None else layers
            trained = tuple(layer for layer in wanted if layer not in drop)
            if not trained:
                raise InputError("layers: all layers that were to be trained are among those that are dropped")
            variants.append(Variant(name, seed, trained, drop))
    return variants
