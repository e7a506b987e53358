"""Candidates of the search for ways to flag layers."""

from stratoscope.scoring.definition_space import DefinitionCandidate, DefinitionSpace

SPACE = DefinitionSpace(
    definitions=("eavss", "dprime"),
    taps=("block", "update"),
    parts=("answer",),
    variances=("elementwise", "pooled"),
    epsilons=(("absolute", 0.01), ("quantile", 0.2)),
    propensities=(1.0, 1.5),
    levels=(0.05,),
)


def test_the_grid_holds_every_candidate_once() -> None:
    candidates = list(SPACE.grid())
    assert len(candidates) == len(set(candidates)) == 2 * 2 * 2 * 2 * 2
    assert all(SPACE.candidate(SPACE.config(candidate)) == candidate for candidate in candidates)


def test_there_is_one_starting_point_per_definition_and_tap() -> None:
    points = SPACE.starting_points()
    assert len(points) == 2 * 2
    assert points[0] == DefinitionCandidate("eavss", "block", "answer", "elementwise", 0, 1.0, 0.05)
