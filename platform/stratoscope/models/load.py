"""LoadSpec a model and its tokenizer, and describing one without loading its weights."""

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
    """A network on its device, in evaluation mode, with its tokenizer and the places of its layers."""

    network: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    anatomy: LayerLayout
    device: torch.device

    @property
    def backbone(self) -> "PreTrainedModel":
        """The network without its vocabulary head."""
        backbone: PreTrainedModel = self.network.base_model
        return backbone


@dataclass(frozen=True)
class ModelFacts:
    """What a configuration tells of a model before any weight is read."""

    architecture: str
    num_layers: int
    hidden_size: int
    num_parameters: int
    max_positions: int | None
    """Longest sequence that it has positions for."""
    shows_hidden: bool = True
    """Whether the tap mlp_hidden can be read."""
    quantisation: str | None = None
    """Method by which the checkpoint is quantised."""


@dataclass(frozen=True)
class LoadSpec:
    """How a process is to load a model; all but the source are those of `load_model`."""

    source: ModelSource
    device: str
    dtype: str
    attention: str | None
    trust_remote_code: bool
    spread: bool

    def load(self, *, head: bool = False) -> LoadedModel:
        """Load the model, with its vocabulary head or without."""
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
        source: what `model.source` takes, or the outcome of `resolve_source`.
        device: a torch device, such as 'cpu' or 'cuda'.
        dtype: 'float32', 'bfloat16' or 'float16'; 'auto' is bfloat16 on a GPU and float32 elsewhere.
        revision: of a hub name.
        attention: transformers' attention implementation ('sdpa', 'eager', ...); None takes its own choice.
        trust_remote_code: run code that the model's repository carries.
        head: load the vocabulary head too; statistics never need it.
        spread: spread the layers over all GPUs that this process sees, as many on each as fit.

    Raises:
        InputError: the source cannot be resolved or read, weights are missing, or its layers are not found.
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
    """Load a model's tokenizer, padding on the right, with a padding token whatever the checkpoint says.

    Raises:
        InputError: there is no tokenizer beside the model.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            local_folder(source), revision=source.revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"model.source {source.name!r} has no tokenizer: {first_line(error)}") from error
    return tokenizer


def describe_model(
    source: ModelSource, *, trust_remote_code: bool = False, here: bool = True, head: bool = False
) -> ModelFacts:
    """Tell a model's architecture and size from its configuration alone, and see that it can be loaded and read.

    Args:
        source: the model.
        trust_remote_code: run code that the model's repository carries.
        here: it will be loaded on this machine, not on others of a cluster.
        head: it will be loaded with its vocabulary head.

    Raises:
        InputError: the configuration cannot be read, the layers are not found, weights are missing, a token has no
            embedding, or the checkpoint is quantised in a way that cannot be loaded.
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
    if source.kind != "hub":  # of a hub name the actors check what they have downloaded
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
    """Load a model's configuration.

    Raises:
        InputError: there is none, or transformers does not know its architecture.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            local_folder(source), revision=source.revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"model.source {source.name!r} cannot be read: {first_line(error)}") from error


def num_layers_of(config: Any) -> int:
    """Return the number of layers that a configuration names for its text part."""
    return int(config.get_text_config().num_hidden_layers)


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the torch dtype of a name; 'auto' is bfloat16 on a GPU and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return DTYPES[dtype]


def dtype_name(dtype: str, device: str) -> str:
    """Return the name of the dtype that a model will have."""
    return str(resolve_dtype(dtype, device)).removeprefix("torch.")
