"""Drift between two score runs, from their tables."""

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from stratoscope.pipelines.runtime.run_lookup import recorded_settings
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.load_statistics import StatisticsTables
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
        NotComparableError: the runs cannot be compared.
    """
    changed = _changed_settings(now.manifest, before.manifest)
    if changed:
        raise NotComparableError(f"{', '.join(changed)} differ")
    scores = (prompt_scores(run) for run in (now, before))
    drift = compare_layers(*scores, level=level, min_shift=min_shift, seed=seed)
    return replace(drift, reweighted=_reweighted(now, before))


def prompt_scores(run: Run) -> PromptScores:
    """Return the log AVSS of the prompts that a score run stores: all of them, or a sample in large runs."""
    epsilons = tuple(run.manifest.facts["epsilons"])
    taps = recorded_settings(ScoreConfig, run.manifest.config)["activations.taps"]
    tables = StatisticsTables(run.storage, False, tuple(taps), epsilons)
    values = {
        tap: np.concatenate([log_avss(statistics) for _, statistics, _ in tables.read(tap)]) for tap in tables.taps
    }
    first_rows = (
        table.filter((pc.field("tap") == tables.taps[0]) & (pc.field("layer") == 0))
        for table in iter_table(run.storage, "prompt_stats")
    )
    prompts = [prompt for table in first_rows for prompt in table["prompt_id"].to_pylist()]
    return PromptScores(prompts, values).finite()


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
    norms = (run.table("layers")["weight_norm"].to_numpy(zero_copy_only=False) for run in (now, before))
    return changed_norms(*norms)
