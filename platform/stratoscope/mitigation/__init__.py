"""Mitigation: training some layers of a model, by contrast of right and wrong answers or by distillation."""

from stratoscope.mitigation.examples import Corpus, Plan, QuestionExample, answer_rows
from stratoscope.mitigation.objective import TERMS, Anchor, LossTerms, Weights
from stratoscope.mitigation.parameters import Method, TrainableSpec, open_parameters, tensor_digests
from stratoscope.mitigation.patch import Patch, check_frozen, make_patch, patched_weights
from stratoscope.mitigation.states import ReferenceStates, Separation, measured, sample, separation
from stratoscope.mitigation.training import (
    STEPS,
    Host,
    OptimizerSettings,
    Sharding,
    TrainingSettings,
    Validation,
    cuts_of,
    train,
)

__all__ = [
    "STEPS",
    "TERMS",
    "Anchor",
    "Corpus",
    "Host",
    "LossTerms",
    "Method",
    "OptimizerSettings",
    "Patch",
    "Plan",
    "QuestionExample",
    "ReferenceStates",
    "Separation",
    "Sharding",
    "TrainableSpec",
    "TrainingSettings",
    "Validation",
    "Weights",
    "answer_rows",
    "check_frozen",
    "cuts_of",
    "make_patch",
    "measured",
    "open_parameters",
    "patched_weights",
    "sample",
    "separation",
    "tensor_digests",
    "train",
]
