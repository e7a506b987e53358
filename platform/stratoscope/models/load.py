"""Loading of models and tokenizers, and description of models without their weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from stratoscope.errors import InputError, first_line
from stratoscope.models.anatomy import LayerLayout, find_anatomy, first_position
from stratoscope.models.checkpoint import check_quantisation, quantisation_method
from stratoscope.models.completeness import check_complete, check_vocabulary
from stratoscope.models.source import ModelSource, local_folder, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A network on its device, in evaluation mode, with its tokenizer and the layout of its layers."""

    network: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    anatomy: LayerLayout
    device: torch.device

    @property
    def backbone(self) -> "PreTrainedModel":
        """Network without its vocabulary head."""
        backbone: PreTrainedModel = self.network.base_model
        return backbone


@dataclass(frozen=True)
class ModelFacts:
    """Architecture and size of a model, read from its configuration."""

    architecture: str
    num_layers: int
    hidden_size: int
    num_parameters: int
    max_positions: int | None
    """Length of the longest sequence."""
    shows_hidden: bool = True
    """Whether the tap mlp_hidden can be read."""
    quantisation: str | None = None
    """Quantisation method of the checkpoint; None if it is not quantised."""


@dataclass(frozen=True)
class LoadSpec:
    """Source of a model and the options of `load_model` with which a process loads it."""

    source: ModelSource
    device: str
    dtype: str
    attention: str | None
    trust_remote_code: bool
    spread: bool

    def load(self, *, head: bool = False) -> LoadedModel:
        """Load the model, optionally with its vocabulary head."""
        return load_model(
            self.source,
            self.device,
            self.dtype,
            attention=self.attention,
            trust_remote_code=self.trust_remote_code,
            head=head,
            spread=self.spread,
        )


def load_model(
    source: str | ModelSource,
    device: str = "cpu",
    dtype: str = "auto",
    *,
    revision: str | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
    head: bool = False,
    spread: bool = False,
) -> LoadedModel:
    """Load a model from a hub name, a folder, a .gguf file or a bundled name.

    Args:
        source: value of `model.source`, or a resolved source.
        device: a torch device, such as 'cpu' or 'cuda'.
        dtype: 'float32', 'bfloat16' or 'float16'; 'auto' is bfloat16 on a GPU and float32 elsewhere.
        revision: revision of a hub name.
        attention: transformers' attention implementation ('sdpa', 'eager', ...); None takes the default of the model.
        trust_remote_code: whether to run code from the model's repository.
        head: whether to load the vocabulary head, which statistics do not need.
        spread: whether to spread the layers over all GPUs that this process sees.

    Raises:
        InputError: the source cannot be resolved or read, weights are missing, or the layers are not recognised.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    resolved = source if isinstance(source, ModelSource) else resolve_source(source, revision)
    config = load_config(resolved, trust_remote_code=trust_remote_code)
    folder = local_folder(resolved)
    common: dict[str, Any] = {"revision": resolved.revision or "main", "trust_remote_code": trust_remote_code}
    check_complete(folder, config, resolved.name, head=head, **common)
    if attention is not None:
        common["attn_implementation"] = attention
    if spread:
        common["device_map"] = "auto"
    try:
        network = (AutoModelForCausalLM if head else AutoModel).from_pretrained(
            folder, dtype=resolve_dtype(dtype, device), use_safetensors=True, **common
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"model.source {resolved.name!r} cannot be loaded: {first_line(error)}") from error
    network = network.eval() if spread else network.eval().to(device)
    tokenizer = load_tokenizer(resolved, trust_remote_code=trust_remote_code)
    return LoadedModel(network, tokenizer, find_anatomy(network, num_layers_of(network.config)), network.device)


def load_tokenizer(source: ModelSource, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer.

    Raises:
        InputError: the model has no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            local_folder(source), revision=source.revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"model.source {source.name!r} has no tokenizer ({first_line(error)}); save one with the model"
        ) from error
    return tokenizer


def describe_model(
    source: ModelSource, *, trust_remote_code: bool = False, here: bool = True, head: bool = False
) -> ModelFacts:
    """Return a model's architecture and size from its configuration, after checking that the model can be loaded.

    Args:
        source: source of the model.
        trust_remote_code: whether to run code from the model's repository.
        here: whether this machine loads the model, rather than other nodes of a cluster.
        head: whether the model is loaded with its vocabulary head.

    Raises:
        InputError: the configuration cannot be read, the layers are not recognised, weights are missing, a token has no
            embedding, or the quantisation method is not supported.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModel

    config = load_config(source, trust_remote_code=trust_remote_code)
    try:
        with init_empty_weights():
            empty = AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"model.source {source.name!r} cannot be read: {first_line(error)}") from error
    check_quantisation(config, source.name, here=here)
    anatomy = find_anatomy(empty, num_layers_of(config))
    if source.kind != "hub":  # actors check what they download from the hub
        check_complete(local_folder(source), config, source.name, head=head, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        check_vocabulary(tokenizer, empty.get_input_embeddings().weight.shape[0], source.name)
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    return ModelFacts(
        architecture=type(empty).__name__,
        num_layers=len(anatomy),
        hidden_size=int(text.hidden_size),
        num_parameters=sum(p.numel() for p in empty.parameters()),
        max_positions=None if positions is None else positions - first_position(empty.base_model),
        shows_hidden=anatomy.shows_hidden,
        quantisation=quantisation_method(config),
    )


def load_config(source: ModelSource, *, trust_remote_code: bool = False) -> Any:
    """Load a model's transformers configuration.

    Raises:
        InputError: it does not exist, or transformers does not support the architecture.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            local_folder(source), revision=source.revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"model.source {source.name!r} cannot be read: {first_line(error)}") from error


def num_layers_of(config: Any) -> int:
    """Return the number of layers of the text model that a configuration describes."""
    return int(config.get_text_config().num_hidden_layers)


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the torch dtype of a name; 'auto' is bfloat16 on a GPU and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return DTYPES[dtype]


def dtype_name(dtype: str, device: str) -> str:
    """Return the name of the torch dtype of a model, with 'auto' resolved for its device."""
    return str(resolve_dtype(dtype, device)).removeprefix("torch.")
