"""The score run that a search uses: its calibration prompts, and the scores of every candidate from its statistics."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from stratoscope.data import load_prompts
from stratoscope.errors import InputError
from stratoscope.pipelines.score.config import PromptsSection
from stratoscope.pipelines.score.load_statistics import StatisticsTables, load_observations
from stratoscope.pipelines.sharded.taps import taps_read
from stratoscope.pruning import PERPLEXITY_DROP, LayerScores, PruningSpace, ScoreKey, compute_scores
from stratoscope.pruning.scores import scoring_settings, span_lengths
from stratoscope.results import Manifest, Storage, read_table
from stratoscope.scoring import METRICS
from stratoscope.tables.score import ALL


@dataclass(frozen=True)
class FinishedScore:
    """A finished score run. An older version may have written it."""

    storage: Storage
    manifest: Manifest

    @property
    def model(self) -> str:
        """Source of its model."""
        return str(self.manifest.config["model"]["source"])

    @property
    def weights(self) -> str:
        """Fingerprint of the model's weights."""
        return self.manifest.fingerprints["weights"]

    @property
    def tables(self) -> StatisticsTables:
        """The tables of its statistics."""
        return StatisticsTables.from_manifest(self.storage, self.manifest)

    @cached_property
    def calibrated(self) -> frozenset[str]:
        """Ids of its prompts. The prompts are read again from their source.

        Raises:
            InputError: the prompts have changed since, or cannot be read.
        """
        known = PromptsSection.model_fields
        fields = {name: value for name, value in self.manifest.config["prompts"].items() if name in known}
        section = PromptsSection.model_validate(fields)
        prompts = load_prompts(section.to_source(), section.limit, self.manifest.seed)
        if prompts.ordered.fingerprint != self.manifest.fingerprints["prompts"]:
            raise InputError(
                f"statistics: the prompts of {self.storage.url()} have changed since they were read from "
                f"{section.source!r}, so task items among them cannot be excluded; score again"
            )
        return frozenset(prompts.table["prompt_id"].to_pylist())


def check_statistics(run: FinishedScore, space: PruningSpace, name: str) -> None:
    """Check that a score run holds what a space needs.

    Args:
        run: the score run.
        space: the candidates.
        name: name of the run in the configuration, for messages.

    Raises:
        InputError: a tap or a length of spans is missing.
    """
    taps = taps_read(run.manifest.config["activations"]["taps"], run.manifest.facts)
    missing = [tap for tap in space.taps if tap not in taps]
    if missing and any(m in METRICS and METRICS[m].per_tap for m in space.metrics):
        raise InputError(
            f"statistics {name!r} has no tap {missing[0]}, which space.taps asks for; it has "
            f"{', '.join(taps) or 'none'}"
        )
    needed = span_lengths(space, run.manifest.facts["num_layers"])
    lengths = {length for _, length in run.tables.read_angles().get(ALL, {})} if needed else set()
    for length in needed:
        if length not in lengths:
            raise InputError(
                f"statistics {name!r} has no spans of {length} layers, which angular_distance needs; score again with "
                f"--activations.spans {length}, or leave the metric out"
            )


def all_scores(run: FinishedScore, space: PruningSpace, seed: int) -> dict[ScoreKey, LayerScores]:
    """Compute the scores of every candidate from the statistics of a score run.

    Raises:
        InputError: a metric has no score for a layer of this model.
    """
    weight_norm = read_table(run.storage, "layers")["weight_norm"].to_numpy(zero_copy_only=False)
    if "magnitude" in space.metrics and np.isnan(weight_norm).any():
        raise InputError(
            "space.metrics magnitude: weights that are stored as integers or 8-bit floats have no norm; leave it out"
        )
    tables = run.tables
    taps = tuple(tap for tap in space.taps if tap in tables.taps) or tables.taps[:1]
    observations = load_observations(replace(tables, taps=taps), scoring_settings(space, seed))[ALL]
    return compute_scores(space, observations, weight_norm, seed)


def score_settings(space: PruningSpace, num_layers: int) -> dict[str, Any]:
    """Return the sections of a score run's configuration that a space needs."""
    return {
        "activations": {
            "taps": list(space.taps),
            "epsilons": list(space.epsilons) or [0.01],
            "spans": span_lengths(space, num_layers),
        },
        "scores": {
            "metrics": [m for m in space.metrics if m != PERPLEXITY_DROP] or ["last"],
            "variance": list(space.variances),
            "epsilon": list(space.epsilons) or ([] if space.quantiles else [0.01]),
            "quantile": list(space.quantiles),
        },
    }
