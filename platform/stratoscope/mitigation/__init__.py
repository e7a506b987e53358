"""Mitigation: fine-tuning of layers by contrasting answers, and recovery after pruning by distillation."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.mitigation.examples import BatchSchedule, Corpus, QuestionExample, answer_rows, encode_question
    from stratoscope.mitigation.objective import LossTerms, Weights
    from stratoscope.mitigation.options import TERMS, Anchor, Method
    from stratoscope.mitigation.parameters import TrainableSpec, tensor_digests, unfreeze
    from stratoscope.mitigation.patch import Patch, check_frozen, make_patch, patched_weights, read_trained
    from stratoscope.mitigation.states import ReferenceStates, Separation, evenly_spaced, measure_reference, separation
    from stratoscope.mitigation.training import (
        STEPS,
        Host,
        OptimizerSettings,
        Sharding,
        TrainingSettings,
        Validation,
        dropped_spans,
        train,
    )
    from stratoscope.mitigation.tuning import LayersByNumber, TuningSpace, apply_point
    from stratoscope.mitigation.variants import (
        BASE,
        EVERY,
        FLAGGED,
        GIVEN,
        RANDOM,
        LayerFlag,
        LayersBySeed,
        Variant,
        fine_tuning_variants,
        parse_layers,
        random_layers,
        rank_flagged,
        recovery_variants,
        resized_layers,
    )

__all__ = [
    "BASE",
    "EVERY",
    "FLAGGED",
    "GIVEN",
    "RANDOM",
    "STEPS",
    "TERMS",
    "Anchor",
    "BatchSchedule",
    "Corpus",
    "Host",
    "LayerFlag",
    "LayersByNumber",
    "LayersBySeed",
    "LossTerms",
    "Method",
    "OptimizerSettings",
    "Patch",
    "QuestionExample",
    "ReferenceStates",
    "Separation",
    "Sharding",
    "TrainableSpec",
    "TrainingSettings",
    "TuningSpace",
    "Validation",
    "Variant",
    "Weights",
    "answer_rows",
    "apply_point",
    "check_frozen",
    "dropped_spans",
    "encode_question",
    "evenly_spaced",
    "fine_tuning_variants",
    "make_patch",
    "measure_reference",
    "parse_layers",
    "patched_weights",
    "random_layers",
    "rank_flagged",
    "read_trained",
    "recovery_variants",
    "resized_layers",
    "separation",
    "tensor_digests",
    "train",
    "unfreeze",
]

__getattr__ = exports(__name__)
