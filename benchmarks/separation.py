"""How much faster random sets of layers are solved together than by scikit-learn one after another, in paired runs."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from stratoscope.scoring.separation import Learner, held_out, random_layers

ANSWERS, LAYERS, SETS = 3500, 30, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(ANSWERS, 1, 1))
    table = 0.7 * generator.normal(size=(ANSWERS, LAYERS, 2)) + shared
    odds = 0.3 * table[:, 3, 0] - 0.4 * table[:, 8, 1] + 0.2 * shared[:, 0, 0]
    wrong = generator.random(ANSWERS) < 1 / (1 + np.exp(-odds))
    test = generator.random(ANSWERS) < 0.2
    learner = Learner()
    for size in (1, 2, 6, 12):
        sets = random_layers(LAYERS, size, SETS, seed=0)
        together = partial(learner.predict_many, table, wrong, test, sets)
        apart = partial(_one_by_one, learner, table, wrong, test, sets)
        taken = [(_seconds(apart), _seconds(together)) for _ in range(pairs)]
        ratio = statistics.median(a / t for a, t in taken)
        slow, fast = (statistics.median(column) for column in zip(*taken, strict=True))
        print(
            f"{SETS} sets of {size} layers: one by one {slow:.2f} s, together {fast:.2f} s, {ratio:.1f} times as fast"
        )


def _one_by_one(learner: Learner, table: Any, wrong: Any, test: Any, sets: Sequence[tuple[int, ...]]) -> None:
    for layers in sets:
        held_out(table, wrong, test, layers, learner)


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
