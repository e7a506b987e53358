"""The objective of the search with target eavss."""

import pytest

from stratoscope.pipelines.hallucination.outcome import against_random
from stratoscope.pipelines.search.eavss.trial import DefinitionOutcome, objective_value


def outcome(auroc: float, over_random: float) -> DefinitionOutcome:
    return DefinitionOutcome(
        dataset="d",
        auroc=auroc,
        ci_low=auroc - 0.02,
        ci_high=auroc + 0.02,
        random=auroc - over_random,
        over_random=over_random,
        over_random_low=over_random - 0.01,
        over_random_high=over_random + 0.01,
        detectable=0.02,
        share_of_random_below=0.9,
        num_layers=2.0,
        flagged=(1, 2),
        epsilon=0.01,
    )


def test_least_over_random_is_the_least_gain_over_data_sets() -> None:
    outcomes = [outcome(0.6, 0.08), outcome(0.7, 0.02)]
    assert objective_value(outcomes, "least_over_random") == pytest.approx(0.02)
    assert objective_value(outcomes, "over_random") == pytest.approx(0.05)
    assert objective_value(outcomes, "auroc") == pytest.approx(0.65)


def test_a_difference_is_one_only_where_its_interval_leaves_0_out() -> None:
    assert against_random(0.01, 0.05, 0.02).startswith("better")
    assert against_random(-0.05, -0.01, 0.02).startswith("worse")
    assert "could show 0.020" in against_random(-0.01, 0.05, 0.02)
