"""Which layers are trained, and which are dropped first: one variant each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stratoscope.errors import InputError
from stratoscope.pipelines.hallucination.report import first_rows
from stratoscope.pipelines.mitigation.config import EVERY, FLAGGED, GIVEN, RANDOM, DropsSection, FlagsSection
from stratoscope.pipelines.search.pruning.statistics import FinishedScore, all_scores, check_statistics
from stratoscope.pruning import PruningSpace
from stratoscope.results import Manifest, Storage, read_table
from stratoscope.scoring import select_layers

LayersBySeed = Callable[[int], tuple[int, ...]]

NUMBERS = re.compile(r"\[?\s*\d+(\s*,\s*\d+)*\s*\]?")


@dataclass(frozen=True)
class Variant:
    """A model that is trained."""

    name: str
    seed: int
    layers: tuple[int, ...]
    """Those that are trained, as the whole model numbers them."""
    dropped: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Name for files and folders."""
        return f"{self.name}-{self.seed}"

    @property
    def cut_key(self) -> str:
        """The same of the model that lacks its dropped layers and is not trained; others may lack the same."""
        return f"cut-{'-'.join(map(str, self.dropped))}"


def parse_layers(text: str, num_layers: int, field: str) -> tuple[int, ...] | None:
    """Return the layers of a list of numbers, or None where the text is no such list.

    Raises:
        InputError: a number names no layer.
    """
    if text == EVERY:
        return tuple(range(num_layers))
    if not NUMBERS.fullmatch(text):
        return None
    layers = sorted({int(number) for number in re.findall(r"\d+", text)})
    if layers[-1] >= num_layers:
        raise InputError(f"{field}: there is no layer {layers[-1]}; the layers are 0 to {num_layers - 1}")
    return tuple(layers)


def flagged_layers(storage: Storage, manifest: Manifest, flags: FlagsSection) -> tuple[int, ...]:
    """Return the layers that a hallucination run names.

    Raises:
        InputError: the run has no such tap, definition or data set, or flags no layer.
    """
    rows = read_table(storage, "hallucination_scores").to_pylist()
    if flags.tap is None and flags.definition is None:
        rows = first_rows(storage)
    tap = str(flags.tap or rows[0]["tap"])
    definition = flags.definition or rows[0]["definition"]
    for field, wanted, column in (("tap", tap, "tap"), ("definition", definition, "definition")):
        known = sorted({row[column] for row in rows})
        if wanted not in known:
            raise InputError(f"flags.{field}: the run {storage.url()} has none called {wanted!r}; {', '.join(known)}")
    rows = [row for row in rows if row["tap"] == tap and row["definition"] == definition]
    names = list(dict.fromkeys(row["dataset"] for row in rows))
    for dataset in flags.datasets:
        if dataset not in names:
            raise InputError(f"flags.datasets: the run {storage.url()} has none called {dataset!r}; {', '.join(names)}")
    chosen = flags.datasets or names
    # The first scoring of each data set is what its layers are flagged by.
    first = {(row["dataset"], row["layer"]): row for row in reversed(rows) if row["dataset"] in chosen}
    num_layers = manifest.facts["num_layers"]
    flagged = [sum(first[dataset, layer]["flagged"] for dataset in chosen) for layer in range(num_layers)]
    propensity = [np.mean([first[dataset, layer]["propensity"] for dataset in chosen]) for layer in range(num_layers)]
    if flags.num_layers is None:
        found = tuple(layer for layer in range(num_layers) if flagged[layer])
        if not found:
            raise InputError(
                f"layers: the run {storage.url()} flags no layer at tap {tap}; give flags.num_layers to take those of "
                "the highest propensity"
            )
        return found
    order = sorted(range(num_layers), key=lambda layer: (-flagged[layer], -propensity[layer], layer))
    return tuple(sorted(order[: flags.num_layers]))


def mending(compare: Sequence[str], layers: tuple[int, ...], num_layers: int, seeds: Sequence[int]) -> list[Variant]:
    """Return the variants of mending: the flagged layers, as many random ones, and all of them."""
    found = []
    for name in compare:
        for seed in seeds:
            chosen = {
                FLAGGED: layers,
                RANDOM: random_layers(num_layers, layers, seed),
                EVERY: tuple(range(num_layers)),
            }[name]
            found.append(Variant(name, seed, chosen))
    return found


def random_layers(num_layers: int, flagged: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Return as many layers as are flagged, drawn from all others, or from all where these are too few."""
    others = [layer for layer in range(num_layers) if layer not in flagged]
    pool = others if len(others) >= len(flagged) else list(range(num_layers))
    return tuple(sorted(np.random.default_rng(seed).permutation(pool)[: len(flagged)].tolist()))


def healing(
    dropped: dict[str, LayersBySeed], layers: tuple[int, ...] | None, num_layers: int, seeds: Sequence[int]
) -> list[Variant]:
    """Return the variants of healing: each choice of dropped layers, and of the rest those that are trained.

    Raises:
        InputError: none that is left was to be trained.
    """
    found = []
    for name, by_seed in dropped.items():
        for seed in seeds:
            drop = by_seed(seed)
            kept = tuple(layer for layer in range(num_layers) if layer not in drop)
            trained = kept if layers is None else tuple(layer for layer in layers if layer in kept)
            if not trained:
                raise InputError("layers: all layers that were to be trained are among those that are dropped")
            found.append(Variant(name, seed, trained, drop))
    return found


def dropped_layers(run: FinishedScore, name: str, drops: DropsSection) -> dict[str, LayersBySeed]:
    """Return, for each metric, the layers that a score run ranks lowest; those of random depend on the seed.

    Raises:
        InputError: the run lacks what a metric needs.
    """
    space = PruningSpace(
        metrics=tuple(drops.metrics), taps=(str(drops.tap),), ratios=(drops.ratio,), epsilons=(drops.epsilon,)
    )
    check_statistics(run, space, name)

    def of(metric: str, seed: int) -> tuple[int, ...]:
        only = replace(space, metrics=(metric,))
        scores = next(iter(all_scores(run, only, seed).values()))
        return select_layers(scores.values, drops.ratio, high_is_important=scores.high_is_important)

    return {metric: partial(of, metric) for metric in drops.metrics}


def given_layers(layers: tuple[int, ...]) -> dict[str, LayersBySeed]:
    """Return dropped layers that were given as numbers."""
    return {GIVEN: lambda _seed: layers}
