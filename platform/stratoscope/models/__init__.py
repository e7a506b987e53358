"""Models: loading from hub, folder or GGUF, where their layers are, their tokens and their fingerprint."""

from stratoscope.models.anatomy import Anatomy, Block, find_anatomy, first_position, layer_parameters
from stratoscope.models.fingerprint import weights_fingerprint
from stratoscope.models.load import (
    LoadedModel,
    ModelFacts,
    describe_model,
    dtype_name,
    load_model,
    load_tokenizer,
    num_layers_of,
    resolve_dtype,
)
from stratoscope.models.source import BUNDLED_MODELS, ModelSource, pin_source, resolve_source
from stratoscope.models.tokens import Encoded, Encoding, encode

__all__ = [
    "BUNDLED_MODELS",
    "Anatomy",
    "Block",
    "Encoded",
    "Encoding",
    "LoadedModel",
    "ModelFacts",
    "ModelSource",
    "describe_model",
    "dtype_name",
    "encode",
    "find_anatomy",
    "first_position",
    "layer_parameters",
    "load_model",
    "load_tokenizer",
    "num_layers_of",
    "pin_source",
    "resolve_dtype",
    "resolve_source",
    "weights_fingerprint",
]
