"""The score run that a search stands on, and the scores of every candidate, computed from its statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stratoscope.data import load_prompts
from stratoscope.errors import InputError
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.load_statistics import StatisticsTables, load_observations
from stratoscope.pipelines.score.tables import ALL
from stratoscope.pipelines.search.config import PERPLEXITY_DROP, SpaceSection
from stratoscope.pruning.space import LayerScores, ScoreKey, thresholds
from stratoscope.results import Manifest, Storage, read_table
from stratoscope.scoring import METRICS, Observations, ScoringSettings, num_dropped, random_scores, score_layers

LEAST_DRAWS = 2
"""Of the bootstrap that the search has no use for."""


@dataclass(frozen=True)
class FinishedScore:
    """A finished score run."""

    storage: Storage
    manifest: Manifest

    @property
    def config(self) -> ScoreConfig:
        """What it was asked to do."""
        return validate(ScoreConfig, self.manifest.config)

    @property
    def weights(self) -> str:
        """Fingerprint of the model's weights."""
        return self.manifest.fingerprints["weights"]

    @cached_property
    def calibrated(self) -> frozenset[str]:
        """Return the ids of the rows that were its prompts, read again from where they came.

        Raises:
            InputError: the prompts have changed since, or cannot be read.
        """
        config = self.config
        prompts = load_prompts(config.prompts.to_source(), config.prompts.limit, config.seed)
        if prompts.ordered.fingerprint != self.manifest.fingerprints["prompts"]:
            raise InputError(
                f"statistics: the prompts of {self.storage.url()} have changed since they were read from "
                f"{config.prompts.source!r}, so items cannot be told from them; score again"
            )
        return frozenset(prompts.table["prompt_id"].to_pylist())


def check_statistics(run: FinishedScore, space: SpaceSection, name: str) -> None:
    """See that a score run holds what a space needs.

    Raises:
        InputError: a tap, a length of spans, or prompts by themselves are missing.
    """
    config = run.config
    needed = [m for m in space.metrics if m in METRICS and METRICS[m].per_tap]
    missing = [str(tap) for tap in space.taps if tap not in config.activations.taps]
    if needed and missing:
        raise InputError(
            f"statistics {name!r} has no tap {missing[0]}, which space.taps asks for; it has "
            f"{', '.join(map(str, config.activations.taps))}"
        )
    if "angular_distance" in space.metrics:
        num_layers = run.manifest.facts["num_layers"]
        lengths = {length for _, length in _tables(run).read_angles().get(ALL, {})}
        for ratio in space.ratios:
            length = num_dropped(ratio, num_layers)
            if length and length not in lengths:
                raise InputError(
                    f"statistics {name!r} has no spans of {length} layers, which angular_distance needs at ratio "
                    f"{ratio}; score again with --activations.spans {length}, or leave the metric out"
                )


def all_scores(run: FinishedScore, space: SpaceSection, seed: int) -> dict[ScoreKey, LayerScores]:
    """Compute the scores of every candidate that statistics tell.

    Args:
        run: the score run.
        space: what the search chooses from.
        seed: of the metric random.

    Raises:
        InputError: a metric has no score for a layer of this model.
    """
    metrics = tuple(m for m in space.metrics if m not in ("random", "angular_distance", PERPLEXITY_DROP))
    weight_norm = read_table(run.storage, "layers")["weight_norm"].to_numpy(zero_copy_only=False)
    if "magnitude" in metrics and np.isnan(weight_norm).any():
        raise InputError("space.metrics magnitude: weights that are stored as integers have no norm; leave it out")
    choices = ScoringSettings(
        metrics=metrics,
        variances=tuple(space.variance),
        epsilons=tuple(thresholds(space) or [("absolute", 0.01)]),
        draws=LEAST_DRAWS,
        splits=1,
        seed=seed,
    )
    tables = _tables(run)
    taps = tuple(str(tap) for tap in space.taps if str(tap) in tables.taps)
    seen = load_observations(replace(tables, taps=taps or tables.taps[:1]), choices)[ALL]
    found: dict[ScoreKey, LayerScores] = {}
    for name in metrics:
        # One metric at a time, for scorings come in the order of what was asked for.
        asked = iter(_asked(name, space, choices))
        for scoring in score_layers(seen, weight_norm, replace(choices, metrics=(name,))):
            found[next(asked)] = LayerScores(scoring.scores, METRICS[name].high_is_important, scoring.epsilon)
    if "random" in space.metrics:
        for draw, values in enumerate(random_scores(len(weight_norm), space.draws, seed)):
            found[ScoreKey("random", draw=draw)] = LayerScores(values)
    if "angular_distance" in space.metrics:
        lengths = {num_dropped(ratio, len(weight_norm)) for ratio in space.ratios}
        found |= {
            ScoreKey("angular_distance", span=length): LayerScores(_angles(seen, weight_norm, length, choices))
            for length in sorted(lengths)
        }
    return found


def _asked(name: str, space: SpaceSection, choices: ScoringSettings) -> list[ScoreKey]:
    """Return the keys of a metric in the order in which `score_layers` yields its scorings."""
    metric = METRICS[name]
    return [
        ScoreKey(name, tap, variance, *epsilon)
        for tap in ([str(tap) for tap in space.taps] if metric.per_tap else [None])
        for variance in (choices.variances if metric.uses_variance else [None])
        for epsilon in (choices.epsilons if metric.uses_sparsity else [(None, None)])
    ]


def _angles(
    seen: Observations, weight_norm: NDArray[np.float64], length: int, choices: ScoringSettings
) -> NDArray[np.float64]:
    of_length = {span: angle for span, angle in seen.angles.items() if span[1] == length}
    only = replace(choices, metrics=("angular_distance",))
    scoring = next(score_layers(replace(seen, angles=of_length), weight_norm, only))
    return scoring.scores


def _tables(run: FinishedScore) -> StatisticsTables:
    config, facts = run.config, run.manifest.facts
    return StatisticsTables(
        run.storage, bool(facts.get("by_shard")), tuple(map(str, config.activations.taps)), tuple(facts["epsilons"])
    )


def score_settings(space: SpaceSection, spans: Sequence[int]) -> dict[str, object]:
    """Return the parts of a score run's configuration that a space needs."""
    return {
        "activations": {"taps": list(space.taps), "epsilons": list(space.epsilons) or [0.01], "spans": list(spans)},
        "scores": {
            "metrics": [m for m in space.metrics if m != PERPLEXITY_DROP] or ["last"],
            "variance": list(space.variance),
            "epsilon": list(space.epsilons) or ([] if space.quantiles else [0.01]),
            "quantile": list(space.quantiles),
        },
    }


def spans_needed(space: SpaceSection, num_layers: int) -> list[int]:
    """Return the lengths of spans that a space needs."""
    if "angular_distance" not in space.metrics:
        return []
    return sorted({count for ratio in space.ratios if (count := num_dropped(ratio, num_layers))})
