"""Language models: loading, layer layout, dropping layers, export, tokenisation and fingerprints."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.models.anatomy import Block, LayerLayout, find_anatomy, first_position, layer_parameters
    from stratoscope.models.batching import (
        MAX_PADDING,
        MAX_PROMPTS,
        bucket,
        find_knee,
        pad,
        padding_limit,
        prompts_in_memory,
        usual_tokens,
    )
    from stratoscope.models.classes import num_layers_of
    from stratoscope.models.export import ModelCard, consecutive_runs, export_pruned, slices_yaml
    from stratoscope.models.fingerprint import weights_fingerprint
    from stratoscope.models.load import (
        LoadedModel,
        LoadSpec,
        ModelFacts,
        describe_model,
        dtype_name,
        load_config,
        load_model,
        load_tokenizer,
        resolution,
        resolve_dtype,
    )
    from stratoscope.models.memory import peak_gpu_memory_bytes, peak_memory_bytes
    from stratoscope.models.positions import PositionScaling
    from stratoscope.models.protection import find_protected_layers
    from stratoscope.models.prune import check_causal, check_prunable, kept_layers, set_layers, without_layers
    from stratoscope.models.source import BUNDLED_MODELS, ModelSource, local_folder, pin_source, resolve_source
    from stratoscope.models.tokens import Encoded, Encoding, encode, encode_pair, encode_text
    from stratoscope.models.transfer import logits_at, to_device, to_host

__all__ = [
    "BUNDLED_MODELS",
    "MAX_PADDING",
    "MAX_PROMPTS",
    "Block",
    "Encoded",
    "Encoding",
    "LayerLayout",
    "LoadSpec",
    "LoadedModel",
    "ModelCard",
    "ModelFacts",
    "ModelSource",
    "PositionScaling",
    "bucket",
    "check_causal",
    "check_prunable",
    "consecutive_runs",
    "describe_model",
    "dtype_name",
    "encode",
    "encode_pair",
    "encode_text",
    "export_pruned",
    "find_anatomy",
    "find_knee",
    "find_protected_layers",
    "first_position",
    "kept_layers",
    "layer_parameters",
    "load_config",
    "load_model",
    "load_tokenizer",
    "local_folder",
    "logits_at",
    "num_layers_of",
    "pad",
    "padding_limit",
    "peak_gpu_memory_bytes",
    "peak_memory_bytes",
    "pin_source",
    "prompts_in_memory",
    "resolution",
    "resolve_dtype",
    "resolve_source",
    "set_layers",
    "slices_yaml",
    "to_device",
    "to_host",
    "usual_tokens",
    "weights_fingerprint",
    "without_layers",
]

__getattr__ = exports(__name__)

__getattr__ = exports(__name__)
