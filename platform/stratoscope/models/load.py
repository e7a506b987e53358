"""Loading of models and tokenizers, and description of models without their weights."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stratoscope.errors import InputError, first_line
from stratoscope.models.anatomy import LayerLayout, find_anatomy, first_position
from stratoscope.models.attention import check_attention
from stratoscope.models.checkpoint import (
    check_finite,
    check_quantisation,
    nonfinite_message,
    quantisation_method,
    weights_folder,
)
from stratoscope.models.classes import check_runs_on_text, empty_model, num_layers_of
from stratoscope.models.completeness import check_complete, check_vocabulary, key_mapping
from stratoscope.models.memory import limit_gpu_memory
from stratoscope.models.positions import PositionScaling, position_scaling, scale_each_pass_anew
from stratoscope.models.source import ModelSource, local_folder, resolve_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ORDER_TOLERANCE = {torch.float32: 1e-2}
"""Largest effect of the last token on earlier logits that rounding may have, relative to the largest logit."""
COARSE_TOLERANCE = 0.2
"""The same in number formats with fewer bits."""
UNSTATED_POSITIONS = 2048
"""Positions that count for a model whose configuration states none."""


@dataclass(frozen=True)
class LoadedModel:
    """A network on its device, in evaluation mode, with its tokenizer and the layout of its layers."""

    network: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    anatomy: LayerLayout
    device: torch.device
    folder: Path | None = None
    """Folder of the checkpoint that the weights were read from; None if they come from elsewhere."""
    stripped_prefixes: tuple[str, ...] = ()
    """Prefixes in the names of the checkpoint's weights that the network's names lack."""

    @property
    def backbone(self) -> "PreTrainedModel":
        """Network without its vocabulary head."""
        backbone: PreTrainedModel = self.network.base_model
        # The causal classes of encoder-decoders hold their decoder in a wrapper that passes all arguments on.
        return backbone.decoder if type(backbone).__name__.endswith("DecoderWrapper") else backbone

    @cached_property
    def scaling(self) -> PositionScaling:
        """Lengths of sequences that may not share a batch."""
        return position_scaling(self.network)


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
    stripped_prefix: str | None = None
    """Prefix that wrappers of the model left in the names of its weights, which is stripped; None if there is none."""
    rescaled_after: int | None = None
    """Length beyond which the model scales the positions of a sequence in another way; None if it never does."""

    @property
    def longest_sequence(self) -> int:
        """Longest sequence of a task's item, in tokens, answer included."""
        return self.max_positions or UNSTATED_POSITIONS


@dataclass(frozen=True)
class LoadSpec:
    """Source of a model and the options of `load_model` with which a process loads it."""

    source: ModelSource
    device: str
    dtype: str
    attention: str | None
    trust_remote_code: bool
    spread: bool
    memory_share: float = 1.0
    """Share of its GPU's memory that the process may take, so that several processes can use one GPU."""

    def load(self, *, head: bool = False) -> LoadedModel:
        """Load the model, optionally with its vocabulary head."""
        if self.memory_share < 1 and self.device.startswith("cuda"):
            limit_gpu_memory(self.memory_share)
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
    resolved = source if isinstance(source, ModelSource) else resolve_source(source, revision)
    config = load_config(resolved, trust_remote_code=trust_remote_code)
    folder = local_folder(resolved)
    common: dict[str, Any] = {"revision": resolved.revision or "main", "trust_remote_code": trust_remote_code}
    model_class, empty = empty_model(config, resolved.name, head=head, trust_remote_code=trust_remote_code)
    check_runs_on_text(empty, resolved.name)
    prefixes = check_complete(folder, config, resolved.name, model_class, head=head, **common)
    if attention is not None:
        common["attn_implementation"] = attention
    if spread:
        common["device_map"] = "auto"
    try:
        network = load_network(model_class, folder, prefixes, dtype=resolve_dtype(dtype, device), **common)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # loaders, quantisers and remote code raise any exception
        raise InputError(f"model.source {resolved.name!r} cannot be loaded: {first_line(error)}") from error
    network = network.eval() if spread else network.eval().to(device)
    scale_each_pass_anew(network)
    tokenizer = load_tokenizer(resolved, trust_remote_code=trust_remote_code)
    anatomy = find_anatomy(network, num_layers_of(network.config))
    stored = weights_folder(folder, common["revision"])
    model = LoadedModel(network, tokenizer, anatomy, network.device, stored, prefixes)
    _check_values(network, resolved.name)
    if head:
        _keep_logits(network)
        _check_order(model, resolved.name)
    return model


def load_network(model_class: Any, folder: str, prefixes: tuple[str, ...], **options: Any) -> Any:
    """Load a network with `from_pretrained`, without known prefixes in the names of its weights.

    Args:
        model_class: class of transformers.
        folder: folder or hub name.
        prefixes: as `check_complete` returns them.
        **options: further arguments of `from_pretrained`.
    """
    mapping = key_mapping(prefixes)
    network = model_class.from_pretrained(folder, use_safetensors=True, key_mapping=mapping, **options)
    if mapping:  # save_pretrained would put the prefixes back
        network._weight_conversions = [
            conversion
            for conversion in network._weight_conversions
            if not set(conversion.source_patterns) <= mapping.keys()
        ]
    return network


def _check_values(network: "PreTrainedModel", name: str) -> None:
    """Check the weights of a model; for files on this machine, `describe_model` does so before loading."""
    for key, weight in network.named_parameters():
        checked = weight.is_floating_point() and weight.itemsize > 1 and not weight.is_meta and weight.numel() > 0
        if checked and not all(map(torch.isfinite, weight.detach().aminmax())):
            raise InputError(nonfinite_message(name, key))


def _keep_logits(network: "PreTrainedModel") -> None:
    """Make the head of a network accept a mask as `logits_to_keep` if it does not."""
    from transformers.modeling_utils import slice_logits_to_keep

    ids, mask = torch.tensor([[1, 2, 3]]).to(network.device), torch.tensor([[True, False, True]]).to(network.device)
    try:
        with torch.inference_mode():
            logits = network(ids, logits_to_keep=mask, use_cache=False).logits
        if logits.numel() == mask.sum() * logits.shape[-1]:
            return
    except (TypeError, ValueError, IndexError, RuntimeError):
        pass  # the head computes all logits; the hooks below keep some of them
    kept: list[Any] = []

    def take(_module: Any, args: Any, options: dict[str, Any]) -> Any:
        kept[:] = [options.pop("logits_to_keep", 0)]
        return args, options

    def keep(_module: Any, _args: Any, output: Any) -> None:
        output.logits = slice_logits_to_keep(output.logits, kept[0])

    network.register_forward_pre_hook(take, with_kwargs=True)
    network.register_forward_hook(keep)


def _check_order(model: LoadedModel, name: str) -> None:
    """Check on the model itself that no token attends to a later one."""
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]]) % model.network.get_input_embeddings().weight.shape[0]
    try:
        with torch.inference_mode():
            logits = [model.network(row[None].to(model.device), use_cache=False).logits[0, :-1].float() for row in ids]
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model.source {name!r} cannot run on text alone: {first_line(error)}") from error
    scale = max(float(logits[0].abs().max()), torch.finfo(torch.float32).tiny)
    if float((logits[0] - logits[1]).abs().max()) > ORDER_TOLERANCE.get(model.network.dtype, COARSE_TOLERANCE) * scale:
        raise InputError(
            f"model.source {name!r} ({type(model.network).__name__}) attends to later tokens, so it is not a causal "
            "language model; choose one that is"
        )


def load_tokenizer(source: ModelSource, *, trust_remote_code: bool = False) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer.

    Raises:
        InputError: the model has no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            local_folder(source), revision=source.revision or "main", trust_remote_code=trust_remote_code
        )
    except Exception as error:  # readers of tokenizers raise any exception
        raise InputError(
            f"model.source {source.name!r} has no tokenizer ({first_line(error)}); save one with the model"
        ) from error
    return tokenizer


def describe_model(
    source: ModelSource,
    *,
    trust_remote_code: bool = False,
    here: bool = True,
    head: bool = False,
    attention: str | None = None,
) -> ModelFacts:
    """Return a model's architecture and size from its configuration, after checking that the model can be loaded.

    Args:
        source: source of the model.
        trust_remote_code: whether to run code from the model's repository.
        here: whether this machine loads the model, rather than other nodes of a cluster.
        head: whether the model is loaded with its vocabulary head.
        attention: attention implementation that the model is loaded with; None takes the default of the model.

    Raises:
        InputError: the configuration cannot be read, the layers are not recognised, weights are missing, a token has no
            embedding, or the quantisation method or the attention implementation is not supported.
    """
    config = load_config(source, trust_remote_code=trust_remote_code)
    model_class, empty = empty_model(config, source.name, head=head, trust_remote_code=trust_remote_code)
    check_quantisation(config, source.name, here=here)
    if attention is not None:
        check_attention(empty, attention, here=here)
    anatomy = find_anatomy(empty, num_layers_of(config))
    prefixes: tuple[str, ...] = ()
    if source.kind != "hub":  # actors check what they download from the hub
        folder = local_folder(source)
        prefixes = check_complete(
            folder, config, source.name, model_class, head=head, trust_remote_code=trust_remote_code
        )
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        check_vocabulary(tokenizer, empty.get_input_embeddings().weight.shape[0], source.name)
        check_finite(Path(folder), source.name)
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    offset = first_position(empty.base_model)
    check_runs_on_text(empty, source.name)
    return ModelFacts(
        architecture=type(empty).__name__,
        num_layers=len(anatomy),
        hidden_size=int(text.hidden_size),
        num_parameters=sum(p.numel() for p in empty.parameters()),
        max_positions=None if positions is None else positions - offset,
        shows_hidden=anatomy.shows_hidden,
        quantisation=quantisation_method(config),
        stripped_prefix="".join(prefixes) or None,
        rescaled_after=position_scaling(empty).first_limit,
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
    except Exception as error:  # configurations and remote code raise any exception
        raise InputError(f"model.source {source.name!r} cannot be read: {first_line(error)}") from error


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """Return the torch dtype of a name; 'auto' is bfloat16 on a GPU and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return DTYPES[dtype]


def resolution(dtype: str) -> float:
    """Return the relative distance of neighbouring numbers in a number format; 0 for an unknown name."""
    return float(torch.finfo(DTYPES[dtype]).eps) if dtype in DTYPES else 0.0


def dtype_name(dtype: str, device: str) -> str:
    """Return the name of the torch dtype of a model, with 'auto' resolved for its device."""
    return str(resolve_dtype(dtype, device)).removeprefix("torch.")
