"""Choices of settings by name. Nothing here imports torch, so that a configuration is read without it."""

from collections.abc import Mapping
from typing import Literal, get_args

Norm = Literal["linf", "l2"]
Attack = Literal["error", "conditions"]
AttackGoal = Literal["own", "conditions", "error"]
Error = Literal["mae", "mse"]
Preset = Literal["reference", "paper"]
Training = Literal["plain", "longer", "faithful", "without_sib", "without_cps", "without_snp"]
TRAININGS: tuple[Training, ...] = get_args(Training)
"""All trainings in the order of tables: a reference comes before what is compared with it."""
ABLATIONS: Mapping[Training, str] = {"without_sib": "sib", "without_cps": "cps", "without_snp": "snp"}
"""The condition that each ablation of faithful training omits."""
FAITHFUL_TRAININGS: tuple[Training, ...] = ("faithful", *ABLATIONS)
