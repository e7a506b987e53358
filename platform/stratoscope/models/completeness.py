"""Checks that a checkpoint holds every weight of its model, from the headers of its files alone.

transformers initialises missing weights with random numbers and only logs a warning, so that every number computed from
such a model is invented. An incomplete checkpoint is therefore refused before any weight is read.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from stratoscope.errors import InputError, first_line
from stratoscope.models.checkpoint import quantisation_method
from stratoscope.models.classes import declared_class

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRAPPER_PREFIXES = {
    "_orig_mod.": r"_orig_mod\.",
    "_fsdp_wrapped_module.": r"_fsdp_wrapped_module\.",
    "module.": r"^module\.",
    "base_model.model.": r"^base_model\.model\.",
}
"""Prefixes that torch.compile, FSDP, DataParallel and peft put into the names of weights, with their patterns.

The first two may be anywhere in a name, because they also wrap single layers.
"""
ADAPTER_NAMES = (".lora_", ".base_layer.")
"""Parts of the names of weights with adapters that are not merged."""
NAMED = 3
"""Largest number of weights that a message names."""


def check_complete(
    folder: str, config: Any, name: str, model_class: Any, *, head: bool, **common: Any
) -> tuple[str, ...]:
    """Compare the names and shapes of a checkpoint's weights with those of its model.

    The model is built on the meta device, so transformers applies its own renaming, conversion and tying of weights and
    no weight is read. The weights are compared with the class that the configuration declares, and also with the loaded
    class if that has weights that the declared class lacks.

    Args:
        folder: folder or hub name, as passed to `from_pretrained`.
        config: transformers configuration of the model.
        name: name of the model, as configured.
        model_class: class that the model is loaded with.
        head: whether that class has a vocabulary head.
        **common: further arguments of `from_pretrained`: the revision, and whether to trust the model's own code.

    Returns:
        Known prefixes of wrappers in the names of the weights, which loading has to strip.

    Raises:
        InputError: a weight is missing, unexpected or of another shape.
    """
    prefixes: tuple[str, ...] = ()
    for checked in _classes_to_check(config, model_class, head=head):
        prefixes = _check_class(checked, folder, name, prefixes, common | {"config": config})
    return prefixes


def key_mapping(prefixes: Sequence[str]) -> dict[str, str] | None:
    """Return the argument `key_mapping` of `from_pretrained` that strips prefixes from the names of weights."""
    return {WRAPPER_PREFIXES[prefix]: "" for prefix in prefixes} or None


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", num_embeddings: int, name: str) -> None:
    """Check that every token has an embedding.

    Args:
        tokenizer: tokenizer of the model.
        num_embeddings: number of rows of the input embedding.
        name: name of the model, as configured.

    Raises:
        InputError: the tokenizer has a token without an embedding.
    """
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= num_embeddings:
        raise InputError(
            f"model.source {name!r}: the tokenizer has token ids up to {largest:,}, but the embedding has only "
            f"{num_embeddings:,} rows; save the tokenizer that the model was trained with, or resize the model's token "
            "embeddings"
        )


def _classes_to_check(config: Any, model_class: Any, *, head: bool) -> Sequence[Any]:
    from transformers import AutoModelForCausalLM

    declared = declared_class(config)
    if declared is None:
        # The model's own code decides; its base model would lack the vocabulary head.
        own_code = getattr(config, "auto_map", None) or {}
        return [model_class if head or "AutoModelForCausalLM" not in own_code else AutoModelForCausalLM]
    return [declared, model_class] if head and not _is_class_of(model_class, declared, config) else [declared]


def _is_class_of(model_class: Any, declared: Any, config: Any) -> bool:
    """Return whether a class is the declared one, or the automatic class that stands for it."""
    if model_class is declared:
        return True
    mapping = getattr(model_class, "_model_mapping", {})
    return type(config) in mapping and mapping[type(config)] is declared


def _check_class(
    model_class: Any, folder: str, name: str, prefixes: tuple[str, ...], options: dict[str, Any]
) -> tuple[str, ...]:
    """Check one class, and return the known wrapper prefixes together with any others that its weights have."""
    while True:
        try:
            _, report = model_class.from_pretrained(
                folder,
                device_map="meta",
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                key_mapping=key_mapping(prefixes),
                **options,
            )
        except Exception as error:  # quantisers and remote code raise any exception
            if quantisation_method(options["config"]) is not None:
                return prefixes  # a quantised model may need a GPU to be built
            raise InputError(f"model.source {name!r} cannot be loaded: {first_line(error)}") from error
        more = _wrappers(report["unexpected_keys"], prefixes)
        if not more:
            break
        prefixes += more
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted((key, tuple(saved), tuple(built)) for key, saved, built in report["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise InputError(f"model.source {name!r}: {_explain(model_class, missing, unexpected, mismatched)}")
    return prefixes


def _wrappers(unexpected: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the wrapper prefixes of unexpected names of weights, without those already known."""
    return tuple(
        prefix
        for prefix, pattern in WRAPPER_PREFIXES.items()
        if prefix not in known and any(re.search(pattern, key) for key in unexpected)
    )


def _explain(
    model_class: Any,
    missing: Sequence[str],
    unexpected: Sequence[str],
    mismatched: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> str:
    adapter = next((key for key in unexpected if any(part in key for part in ADAPTER_NAMES)), None)
    if adapter is not None:
        return (
            f"the checkpoint holds adapters that are not merged, such as {adapter}; merge them with peft's "
            "merge_and_unload and save the model again"
        )
    kind = model_class.__name__
    if missing:
        return f"{kind} needs weights that the checkpoint lacks: {_named(missing)}; save the whole model again"
    if mismatched:
        key, saved, built = mismatched[0]
        remedy = "consolidate the ZeRO-3 checkpoint" if 0 in saved else "save the model with its own config.json"
        more = f" ({len(mismatched) - 1} more differ)" if len(mismatched) > 1 else ""
        return f"{key} has the shape {saved} in the checkpoint and {built} according to config.json{more}; {remedy}"
    return (
        f"the checkpoint holds weights that {kind} does not have: {_named(unexpected)}; "
        "correct config.json (num_hidden_layers and architectures), which describes another model"
    )


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more
