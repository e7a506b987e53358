"""The section of the search with target eavss."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stratoscope.activations import Tap
from stratoscope.pipelines.hallucination.config import SeparationSection
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.validators import (
    DISTINCT,
    Draws,
    Fraction,
    FractionOrOne,
    NotNegative,
    Positive,
    named,
)
from stratoscope.scoring import DEFINITIONS, Part, VarianceKind
from stratoscope.scoring.definition_space import DefinitionSpace
from stratoscope.statistics import least_rank_p

DefinitionObjective = Literal["auroc", "over_random", "least_over_random"]


class DefinitionSearchSection(ConfigSection):
    """The search space of target eavss; all trials are computed from a hallucination run's statistics."""

    definitions: Annotated[list[str], DISTINCT, named(DEFINITIONS, "definition")] = Field([*DEFINITIONS], min_length=1)
    """Definitions: eavss, standardized, dprime, difference, ratio, hallucinated_only; all are ours."""
    taps: Annotated[list[Tap], DISTINCT] = []
    """Taps of the hallucination run; none means all of them."""
    parts: Annotated[list[Part], DISTINCT] = Field(["answer"], min_length=1)
    """Parts: answer, last (its last token), change (an answer relative to its question)."""
    variance: Annotated[list[VarianceKind], DISTINCT] = Field(["elementwise", "pooled"], min_length=1)
    """Kinds of variance: elementwise, pooled."""
    epsilons: Annotated[list[Positive], DISTINCT] = [0.01, 0.1]
    """Absolute sparsity thresholds; a threshold between two bins of the histogram snaps to the nearest edge."""
    quantiles: Annotated[list[Fraction], DISTINCT] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    propensities: Annotated[list[NotNegative], DISTINCT] = Field([0.5, 1.0, 1.5, 2.0], min_length=1)
    """Propensities above which a layer can be flagged."""
    levels: Annotated[list[FractionOrOne], DISTINCT] = Field([0.05, 1.0], min_length=1)
    """Significance levels that a flagged layer has to pass; at 1 propensity alone decides."""
    draws: Draws = Field(499, ge=99)
    """Randomisations of the test inside each fold."""
    objective: DefinitionObjective = "auroc"
    """auroc: of the flagged layers, averaged over data sets; over_random: its difference to random sets;
    least_over_random: the same on the data set where it is least."""
    choose_on: Annotated[list[str], DISTINCT] = []
    """Data sets that trials are compared on; none means all except those of confirm_on."""
    confirm_on: Annotated[list[str], DISTINCT] = []
    """Data sets that trials never use, on which the best one is confirmed."""
    separation: SeparationSection = SeparationSection()
    """How wrong answers are told from right ones."""

    @model_validator(mode="after")
    def _enough_draws(self) -> Self:
        least = least_rank_p(self.draws)
        if min(self.levels) < least:
            raise ValueError(
                f"no p-value of {self.draws} draws is as low as level {min(self.levels):g} (the least is {least:.2g}); "
                "raise draws or the level"
            )
        return self

    def to_space(self, taps: tuple[str, ...]) -> DefinitionSpace:
        """Return the space as plain values.

        Args:
            taps: taps of the hallucination run that are part of the space.
        """
        return DefinitionSpace(
            definitions=tuple(self.definitions),
            taps=taps,
            parts=tuple(self.parts),
            variances=tuple(self.variance),
            epsilons=(*(("absolute", e) for e in self.epsilons), *(("quantile", q) for q in self.quantiles)),
            propensities=tuple(self.propensities),
            levels=tuple(self.levels),
        )
