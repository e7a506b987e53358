"""The fields of the search for EAVSS thresholds."""

from typing import Literal

from pydantic import Field, field_validator

from stratoscope.activations import Tap
from stratoscope.errors import suggest
from stratoscope.pipelines.config import Section
from stratoscope.pipelines.hallucination.config import Part, SeparationSection
from stratoscope.scoring import DEFINITIONS, VarianceKind


class ThresholdsSection(Section):
    """What the search with target eavss chooses from; all of it is computed from a hallucination run's statistics."""

    definitions: list[str] = Field([*DEFINITIONS], min_length=1)
    """eavss, standardized, difference, ratio, hallucinated_only; all are ours."""
    taps: list[Tap] = []
    """Taps of the hallucination run; none given means all that it read."""
    parts: list[Part] = Field(["answer"], min_length=1)
    """answer, last, change (an answer relative to its question)."""
    variance: list[VarianceKind] = Field(["elementwise", "pooled"], min_length=1)
    """elementwise, pooled."""
    epsilons: list[float] = [0.01, 0.1]
    """Absolute sparsity thresholds; a threshold between two bins of the histogram snaps to the nearest edge."""
    quantiles: list[float] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    propensities: list[float] = Field([0.5, 1.0, 1.5, 2.0], min_length=1)
    """Propensities above which a layer can be flagged."""
    levels: list[float] = Field([0.05, 1.0], min_length=1)
    """Levels of the test that a flagged layer has to pass; at 1 propensity alone decides."""
    draws: int = Field(499, ge=99)
    """Randomisations of the test inside each fold."""
    objective: Literal["auroc", "over_random"] = "auroc"
    """What is improved, averaged over data sets: the area for flagged layers, or what it is above random sets'."""
    choose_on: list[str] = []
    """Data sets that trials are judged on; none given means all but those of confirm_on."""
    confirm_on: list[str] = []
    """Data sets that trials never see, on which the best one is confirmed."""
    separation: SeparationSection = SeparationSection()
    """How answers are told apart."""

    @field_validator("definitions")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in DEFINITIONS:
                raise ValueError(f"{name!r} is no definition{suggest(name, DEFINITIONS, 'definitions')}")
        return names

    @field_validator("levels")
    @classmethod
    def _share(cls, values: list[float]) -> list[float]:
        if any(not 0 < value <= 1 for value in values):
            raise ValueError("all values must lie above 0 and at most at 1")
        return values

    @field_validator("epsilons")
    @classmethod
    def _positive(cls, values: list[float]) -> list[float]:
        if any(value <= 0 for value in values):
            raise ValueError("all values must be above 0")
        return values
