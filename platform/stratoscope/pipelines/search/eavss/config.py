"""The fields of the search for EAVSS thresholds."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stratoscope.activations import Tap
from stratoscope.pipelines.hallucination.config import SeparationSection
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.validators import DISTINCT, POSITIVE, SHARES, named
from stratoscope.scoring import DEFINITIONS, Part, VarianceKind


class DefinitionSearchSection(ConfigSection):
    """What the search with target eavss chooses from; all of it is computed from a hallucination run's statistics."""

    definitions: Annotated[list[str], DISTINCT, named(DEFINITIONS, "definition")] = Field([*DEFINITIONS], min_length=1)
    """eavss, standardized, dprime, difference, ratio, hallucinated_only; all are ours."""
    taps: Annotated[list[Tap], DISTINCT] = []
    """Taps of the hallucination run; none given means all that it read."""
    parts: Annotated[list[Part], DISTINCT] = Field(["answer"], min_length=1)
    """answer, last, change (an answer relative to its question)."""
    variance: Annotated[list[VarianceKind], DISTINCT] = Field(["elementwise", "pooled"], min_length=1)
    """elementwise, pooled."""
    epsilons: Annotated[list[float], DISTINCT, POSITIVE] = [0.01, 0.1]
    """Absolute sparsity thresholds; a threshold between two bins of the histogram snaps to the nearest edge."""
    quantiles: Annotated[list[float], DISTINCT, SHARES] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    propensities: Annotated[list[float], DISTINCT] = Field([0.5, 1.0, 1.5, 2.0], min_length=1)
    """Propensities above which a layer can be flagged."""
    levels: Annotated[list[float], DISTINCT] = Field([0.05, 1.0], min_length=1)
    """Levels of the test that a flagged layer has to pass; at 1 propensity alone decides."""
    draws: int = Field(499, ge=99)
    """Randomisations of the test inside each fold."""
    objective: Literal["auroc", "over_random", "least_over_random"] = "auroc"
    """auroc: of the flagged layers, averaged over data sets; over_random: less that of random sets; least_over_random:
    the same on the data set where it is least."""
    choose_on: list[str] = []
    """Data sets that trials are judged on; none given means all but those of confirm_on."""
    confirm_on: list[str] = []
    """Data sets that trials never see, on which the best one is confirmed."""
    separation: SeparationSection = SeparationSection()
    """How answers are told apart."""

    @field_validator("levels")
    @classmethod
    def _share(cls, values: list[float]) -> list[float]:
        if any(not 0 < value <= 1 for value in values):
            raise ValueError("all values must lie above 0 and at most at 1")
        return values
