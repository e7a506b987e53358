"""Mitigation: training some layers of a model, by contrast of right and wrong answers or by distillation."""

from stratoscope.mitigation.examples import Corpus, Plan, QuestionExample, answer_rows
from stratoscope.mitigation.objective import TERMS, Anchor, Terms, Weights
from stratoscope.mitigation.parameters import Method, Trained, open_parameters, tensor_digests
from stratoscope.mitigation.patch import Patch, check_frozen, make_patch, swapped_in
from stratoscope.mitigation.states import Reference, Separation, measured, sample, separation
from stratoscope.mitigation.training import (
    STEPS,
    Host,
    Optimising,
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
    "Method",
    "Optimising",
    "Patch",
    "Plan",
    "QuestionExample",
    "Reference",
    "Separation",
    "Sharding",
    "Terms",
    "Trained",
    "TrainingSettings",
    "Validation",
    "Weights",
    "answer_rows",
    "check_frozen",
    "cuts_of",
    "make_patch",
    "measured",
    "open_parameters",
    "sample",
    "separation",
    "swapped_in",
    "tensor_digests",
    "train",
]
