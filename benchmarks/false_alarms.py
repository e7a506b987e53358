"""Measure how often the audit's test of layers alerts where nothing changed but the prompts.

Pairs of nights of SmolLM2-135M on SciQ, each night with other prompts by a seed of its own, are compared as the audit
does. The Clopper-Pearson interval shows what so few pairs can prove. Then every night is compared with every other:
pairs that share nights are not independent, but their mean estimates the rate of a single pair more precisely.

usage: python benchmarks/false_alarms.py [--repeats N] [--prompts N] [--output FOLDER]
"""

import argparse
import tempfile
from itertools import combinations

import numpy as np
from scipy.stats import binomtest

import stratoscope
from stratoscope.execution import cluster
from stratoscope.pipelines.audit.config import RegressionThresholdsSection
from stratoscope.pipelines.audit.layer_drift import layer_drift
from stratoscope.results import Run, Storage
from stratoscope.scoring.drift import Drift


def night(seed: int, prompts: int, output: str) -> stratoscope.ScoreRun:
    return stratoscope.score(
        output=output,
        run_id=f"night-{seed}",
        seed=seed,
        model={"source": "smollm2"},
        prompts={"source": "sciq", "limit": prompts},
        scores={"bootstrap": 100, "splits": 2},
    )


def compared(pairs: list[tuple[Run, Run]]) -> list[Drift]:
    thresholds = RegressionThresholdsSection()
    return [
        layer_drift(now, before, level=thresholds.level, min_shift=thresholds.layer_shift, seed=index)
        for index, (before, now) in enumerate(pairs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--output", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster():
        runs = [night(seed, given.prompts, given.output or folder) for seed in range(2 * given.repeats)]
        opened = [Run(Storage(run.path), run.manifest) for run in runs]
        pairs = compared(list(zip(opened[::2], opened[1::2], strict=True)))
        every = compared(list(combinations(opened, 2)))
    level = RegressionThresholdsSection().level
    moved = sum(bool(d.moved) for d in pairs)
    interval = binomtest(moved, len(pairs)).proportion_ci()
    print(f"{len(pairs)} pairs of nights, {pairs[0].design}, {given.prompts} prompts each, level {level:g}")
    print(f"alerts on layers: {moved} (95 % interval of the rate {interval.low:.3f} to {interval.high:.3f})")
    print(
        f"of all {len(every)} pairs: {sum(bool(d.moved) for d in every)}, {np.mean([bool(d.moved) for d in every]):.3f}"
    )
    print(f"least rank correlation: {min(min(d.rank_correlation.values()) for d in every):.3f}")


if __name__ == "__main__":
    main()
