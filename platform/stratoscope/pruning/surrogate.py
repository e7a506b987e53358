"""A search by a surrogate: a regression on which layers are dropped, fitted to earlier evaluations, proposes sets."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stratoscope.pruning.space import LayerSet
from stratoscope.pruning.strategies import Proposal, Strategy

RANDOM_SETS = 200
"""Random sets among the candidates of a round."""
EXCHANGES = 100
"""Random exchanges of each of the best sets among the candidates of a round, by number of exchanged layers."""
PARENTS = 4
"""Number of the best sets whose exchanges are candidates."""
MOST_EXCHANGED = 3
"""Most layers that are exchanged at once."""


def surrogate_strategy(
    starts: Sequence[LayerSet], layers: Sequence[int], size: int, *, seed: int, num_random: int, batch_size: int = 8
) -> Strategy:
    """Propose the sets with the best upper bound that a regression predicts, and fit it again after each batch.

    The regression has a weight for each layer and for each pair of layers. The first sets are given ones, exchanges of
    them and random ones, so that it sees good and bad sets.

    Args:
        starts: sets of the wanted size, such as those of the lowest scores.
        layers: layers that may be dropped.
        size: size of the sets.
        seed: seed of candidates.
        num_random: number of sets that are evaluated besides the given ones before the first fit.
        batch_size: sets that are proposed together.

    Source: ours.
    """
    generator = random.Random(seed)
    known: dict[LayerSet, float] = {}
    first = list(dict.fromkeys(starts))
    first += [_exchanged(generator.choice(first), layers, 1 + i % MOST_EXCHANGED, generator) for i in range(num_random)]
    values = yield Proposal(tuple(first))
    known |= dict(zip(first, values, strict=True))
    while True:
        pool = [
            dropped for dropped in dict.fromkeys(_candidates(known, layers, size, generator)) if dropped not in known
        ]
        if not pool:
            return
        bounds = upper_bounds(known, pool, layers)
        batch = [pool[index] for index in np.argsort(-bounds, kind="stable")[:batch_size]]
        values = yield Proposal(tuple(batch))
        known |= dict(zip(batch, values, strict=True))


def upper_bounds(
    known: dict[LayerSet, float], candidates: Sequence[LayerSet], layers: Sequence[int]
) -> NDArray[np.float64]:
    """Predict how good sets are from the values of others: mean plus standard deviation of a Bayesian ridge regression.

    Values are replaced by the normal scores of their ranks, since the worst sets would otherwise dominate the fit.

    Args:
        known: values of evaluated sets.
        candidates: sets to predict.
        layers: layers that may be dropped.

    Returns:
        Upper bounds in normal scores, shape (candidates,).
    """
    from scipy.stats import norm, rankdata
    from sklearn.linear_model import BayesianRidge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    scores = norm.ppf((rankdata(list(known.values())) - 0.5) / len(known))
    model = make_pipeline(
        PolynomialFeatures(2, interaction_only=True, include_bias=False), StandardScaler(), BayesianRidge()
    )
    model.fit(_indicators(list(known), layers), scores)
    mean, deviation = model.predict(_indicators(candidates, layers), return_std=True)
    return np.asarray(mean + deviation, np.float64)


def _indicators(sets: Sequence[LayerSet], layers: Sequence[int]) -> NDArray[np.float64]:
    """Return which layers each set drops, shape (sets, layers)."""
    return np.array([[layer in dropped for layer in layers] for dropped in sets], np.float64)


def _candidates(
    known: dict[LayerSet, float], layers: Sequence[int], size: int, generator: random.Random
) -> Iterator[LayerSet]:
    """Yield exchanges of the best known sets, and random sets."""
    for parent in sorted(known, key=lambda dropped: -known[dropped])[:PARENTS]:
        for number in range(1, MOST_EXCHANGED + 1):
            yield from (_exchanged(parent, layers, number, generator) for _ in range(EXCHANGES))
    yield from (tuple(sorted(generator.sample(layers, size))) for _ in range(RANDOM_SETS))


def _exchanged(dropped: LayerSet, layers: Sequence[int], number: int, generator: random.Random) -> LayerSet:
    """Return a set with some layers exchanged at random for retained ones."""
    others = [layer for layer in layers if layer not in dropped]
    number = min(number, len(dropped), len(others))
    rest = set(dropped) - set(generator.sample(dropped, number))
    return tuple(sorted(rest | set(generator.sample(others, number))))
