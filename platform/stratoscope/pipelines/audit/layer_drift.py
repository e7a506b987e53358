"""Drift between two score runs, from their tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.errors import DamagedFileError
from stratoscope.pipelines.runtime.run_lookup import recorded_settings
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.load_statistics import StatisticsTables
from stratoscope.pipelines.sharded.taps import taps_read
from stratoscope.results import Manifest, Run, iter_table
from stratoscope.scoring.drift import Drift, NotComparableError, PromptScores, changed_norms, compare_layers, log_avss


def layer_drift(now: Run, before: Run, *, level: float, min_shift: float, seed: int) -> Drift:
    """Test which layers moved between two score runs (see `compare_layers`).

    Args:
        now: the later run.
        before: the earlier run.
        level: probability that any layer is reported as moved although none has.
        min_shift: smallest absolute shift that counts as a move.
        seed: seed of the randomization test.

    Raises:
        NotComparableError: the runs cannot be compared, or a table of the earlier one is damaged.
    """
    changed = _changed_settings(now.manifest, before.manifest)
    if changed:
        raise NotComparableError(f"{', '.join(changed)} differ")
    with _reading_earlier():
        earlier = prompt_scores(before)
    drift = compare_layers(prompt_scores(now), earlier, level=level, min_shift=min_shift, seed=seed)
    return replace(drift, reweighted=_reweighted(now, before))


@contextmanager
def _reading_earlier() -> Iterator[None]:
    """State damage to the earlier run as a reason against a comparison: this night's run is intact."""
    try:
        yield
    except (DamagedFileError, FileNotFoundError) as error:
        raise NotComparableError(f"the earlier run cannot be read: {error}") from error


def prompt_scores(run: Run) -> PromptScores:
    """Return the log AVSS of the prompts that a score run stores: all of them, or a sample in large runs.

    Raises:
        NotComparableError: the run has read no tap, or stores no prompt.
    """
    facts = run.manifest.facts
    taps = taps_read(recorded_settings(ScoreConfig, run.manifest.config)["activations.taps"], facts)
    if not taps:
        raise NotComparableError(f"run {run.manifest.run_id} has read no tap")
    first_rows = (
        table.filter((pc.field("tap") == taps[0]) & (pc.field("layer") == 0))
        for table in iter_table(run.storage, "prompt_stats")
    )
    prompts = [prompt for table in first_rows for prompt in table["prompt_id"].to_pylist()]
    if not prompts:
        raise NotComparableError(f"run {run.manifest.run_id} keeps the statistics of no single prompt")
    tables = StatisticsTables(run.storage, False, taps, tuple(facts["epsilons"]))
    values: dict[str, NDArray[np.float64]] = {}
    unread: set[tuple[str, int]] = set()
    for tap in taps:
        parts = [statistics for _, statistics, _ in tables.read(tap)]
        values[tap] = np.concatenate([log_avss(statistics) for statistics in parts])
        read = np.any([(part.count + part.nonfinite).any(axis=0) for part in parts], axis=0)
        unread |= {(tap, layer) for layer in np.flatnonzero(~read).tolist()}
    return PromptScores(prompts, values, frozenset(unread)).finite()


def _changed_settings(now: Manifest, before: Manifest) -> list[str]:
    """Return the settings whose changes make the prompts incomparable. Their number, order and seed may differ."""
    new, old = (
        {
            name: value
            for name, value in recorded_settings(ScoreConfig, manifest.config).items()
            if name.startswith("prompts.") and name != "prompts.limit"
        }
        for manifest in (now, before)
    )
    changed = [name for name in {**new, **old} if new.get(name) != old.get(name)]
    if now.facts["epsilons"][0] != before.facts["epsilons"][0]:
        changed.append("activations.epsilons")
    return changed


def _reweighted(now: Run, before: Run) -> tuple[int, ...]:
    if now.manifest.fingerprints.get("weights") == before.manifest.fingerprints.get("weights"):
        return ()
    with _reading_earlier():
        earlier = _norms(before)
    return changed_norms(_norms(now), earlier)


def _norms(run: Run) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = run.table("layers")["weight_norm"].to_numpy(zero_copy_only=False)
    return norms
