"""Checks that a checkpoint holds every weight of its model, from the headers of its files alone.

transformers initialises missing weights with random numbers and only logs a warning, so that every number computed from
such a model is invented. An incomplete checkpoint is therefore refused before any weight is read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stratoscope.errors import InputError, first_line
from stratoscope.models.checkpoint import quantisation_method

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRAPPER_PREFIXES = ("_orig_mod.", "module.", "base_model.model.", "_fsdp_wrapped_module.")
"""Prefixes that torch.compile, DataParallel, peft and FSDP put before the name of every weight."""
NAMED = 3
"""Largest number of weights that a message names."""


def check_complete(folder: str, config: Any, name: str, *, head: bool, **common: Any) -> None:
    """Compare the names and shapes of a checkpoint's weights with those of its model.

    The model is built on the meta device, so transformers applies its own renaming, conversion and tying of weights and
    no weight is read. The class is the one that the configuration declares, and the causal language model as well where
    the vocabulary head is needed.

    Args:
        folder: folder or hub name, as passed to `from_pretrained`.
        config: transformers configuration of the model.
        name: name of the model, as configured.
        head: whether the model is loaded with its vocabulary head.
        **common: further arguments of `from_pretrained`: the revision, and whether to trust the model's own code.

    Raises:
        InputError: a weight is missing, unexpected or of another shape.
    """
    for model_class in _classes_to_check(config, head=head):
        _check_class(model_class, folder, config, name, common)


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


def _classes_to_check(config: Any, *, head: bool) -> Sequence[Any]:
    import transformers
    from transformers import AutoModel, AutoModelForCausalLM

    declared = [getattr(transformers, name, None) for name in (getattr(config, "architectures", None) or [])]
    classes = [known for known in declared[:1] if known is not None] or ([] if head else [AutoModel])
    return [*classes, AutoModelForCausalLM] if head and not _is_causal(classes, config) else classes


def _is_causal(classes: Sequence[Any], config: Any) -> bool:
    """Return whether the first class is the one that is loaded with a head."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return (
        bool(classes)
        and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        and (MODEL_FOR_CAUSAL_LM_MAPPING[type(config)] is classes[0])
    )


def _check_class(model_class: Any, folder: str, config: Any, name: str, common: dict[str, Any]) -> None:
    try:
        _, report = model_class.from_pretrained(
            folder,
            device_map="meta",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **common,
        )
    except Exception as error:  # quantisers and remote code raise any exception
        if quantisation_method(config) is not None:
            return  # a quantised model may need a GPU to be built
        raise InputError(f"model.source {name!r} cannot be loaded: {first_line(error)}") from error
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    mismatched = sorted((key, tuple(saved), tuple(built)) for key, saved, built in report["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise InputError(f"model.source {name!r}: {_explain(model_class, missing, unexpected, mismatched)}")


def _explain(
    model_class: Any,
    missing: Sequence[str],
    unexpected: Sequence[str],
    mismatched: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> str:
    prefix = next((p for p in WRAPPER_PREFIXES if unexpected and all(key.startswith(p) for key in unexpected)), None)
    if prefix is not None:
        return (
            f"the names of its weights begin with {prefix!r}, as in {unexpected[0]}; remove this prefix from the names "
            "(save the unwrapped model with save_pretrained)"
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
