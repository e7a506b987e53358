"""Choices of settings by name. Nothing here imports torch, so that a configuration is read without it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Norm = Literal["linf", "l2"]
Attack = Literal["error", "conditions"]
AttackGoal = Literal["own", "conditions", "error"]
Error = Literal["mae", "mse"]
Preset = Literal["reference", "paper"]
Condition = Literal["sib", "cps", "snp"]
Origin = Literal["own", "first"]
"""A plain forecaster that further training takes weights from: that of the cell's own seed, or of the first seed."""
Training = Literal[
    "plain",
    "longer",
    "distilled",
    "faithful",
    "without_sib",
    "without_cps",
    "without_snp",
    "distilled_to_first",
    "faithful_to_first",
    "longer_from_first",
    "distilled_from_first",
    "faithful_from_first",
]
TRAININGS: tuple[Training, ...] = get_args(Training)
"""All trainings in the order of tables: a reference comes before what is compared with it."""


@dataclass(frozen=True)
class TrainingDesign:
    """Parts of a training. Two trainings that differ in one part show what that part brings."""

    start: Origin | None = None
    """Plain forecaster whose weights training starts from; None starts from random weights."""
    teacher: Origin | None = None
    """Plain forecaster whose forecasts training keeps to; None trains without a teacher."""
    ascent: bool = False
    """Whether training searches perturbations, and has the conditions that are about them."""
    omitted: Condition | None = None
    """Condition that an ablation of faithful training omits."""


DESIGNS: Mapping[Training, TrainingDesign] = {
    "plain": TrainingDesign(),
    "longer": TrainingDesign("own"),
    "distilled": TrainingDesign("own", "own"),
    "faithful": TrainingDesign("own", "own", ascent=True),
    "without_sib": TrainingDesign("own", "own", ascent=True, omitted="sib"),
    "without_cps": TrainingDesign("own", "own", ascent=True, omitted="cps"),
    "without_snp": TrainingDesign("own", "own", ascent=True, omitted="snp"),
    "distilled_to_first": TrainingDesign("own", "first"),
    "faithful_to_first": TrainingDesign("own", "first", ascent=True),
    "longer_from_first": TrainingDesign("first"),
    "distilled_from_first": TrainingDesign("first", "first"),
    "faithful_from_first": TrainingDesign("first", "first", ascent=True),
}
"""Parts of each training."""
