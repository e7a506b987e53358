"""Where a model keeps its layers, and which modules of a layer are its parts, found by structure.

The layers are the only list of modules whose length matches the configuration and whose members all hold a token mixer
or a feed-forward part. A token mixer moves information between tokens: attention, a state space model, a convolution,
linear attention, a recurrent block or a Fourier transform. A layer may have one of the two parts or both. What a part
adds to the residual stream is measured on the model itself, by `stratoscope.activations`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stratoscope.errors import InputError

# Normalisations that stand between a sub-layer and the residual stream, by sub-layer. `post_attention_layernorm` alone
# does not count, because most models use this name for the norm before their feed-forward part.
ATTENTION_EXIT_NORMS = ("post_self_attn_layernorm", "post_attention_layernorm")
MLP_EXIT_NORMS = ("post_mlp_layernorm", "post_feedforward_layernorm")

PartKind = Literal["mixer", "mlp"]
MIXER_NAMES = re.compile(
    r"attn|attention|mixer|mamba|ssm|conv|delta|recurrent|rglru|lstm|temporal|retention|timemix|rwkv|fourier",
    re.IGNORECASE,
)
MLP_NAMES = re.compile(
    r"mlp|ffn|feed_?forward|moe|expert|fc\d|dense|output|intermediate|channel|^ff|sparse|^w\d|^lin\d|linear",
    re.IGNORECASE,
)
MLP_LABELS = re.compile(r"mlp|ffn|feed_forward")
ADAPTER_NAMES = re.compile(r"adapter_modules")
"""Modules whose output a layer adds to the stream after both parts."""
NORM_NAMES = re.compile(r"norm", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """One layer: the module itself and its parts."""

    module: nn.Module
    attention: nn.Module | None
    """Token mixer, whose output most models add to the residual stream; None if the layer has none."""
    mlp: nn.Module | None
    """Feed-forward part, whose output most models add to the residual stream; None if the layer has none."""
    mlp_output: nn.Module | None
    """Last projection of the feed-forward part; its input is the hidden activation after the non-linearity."""
    experts: nn.Module | None = None
    """Module that holds the weights of all experts of a mixture in joint tensors; None if there is none."""

    @property
    def shows_experts(self) -> bool:
        """Whether the layer's experts show their hidden activations, as transformers' grouped products do."""
        if not hasattr(self.experts, "_apply_gate"):
            return False
        has_gate = bool(getattr(self.experts, "has_gate", False))
        return has_gate or isinstance(getattr(self.experts, "act_fn", None), nn.Module)


@dataclass(frozen=True)
class LayerLayout:
    """The layers of a network, in order, and the name under which the network keeps them."""

    path: str
    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def shows_hidden(self) -> bool:
        """Whether the hidden activation of the feed-forward part can be read in every layer."""
        blocks = [block for block in self.blocks if block.mlp is not None]
        return bool(blocks) and all(block.mlp_output is not None or block.shows_experts for block in blocks)


def find_anatomy(network: nn.Module, num_layers: int) -> LayerLayout:
    """Find the layers of a network by structure.

    Args:
        network: any transformers model, with or without a head.
        num_layers: number of layers that its configuration names.

    Raises:
        InputError: no list of modules fits, several do, or the network has an encoder and a decoder.
    """
    name = type(network).__name__
    if getattr(getattr(network, "config", None), "is_encoder_decoder", False) or _has_two_stacks(network):
        raise InputError(f"model {name}: it has an encoder and a decoder; only a model with one stack can be read")
    stacks = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    }
    candidates = {path: layers for path, layers in stacks.items() if all(map(_attention, layers))}
    if not candidates:
        hybrid = {path: layers for path, layers in stacks.items() if all(map(_has_part, layers))}
        candidates = {path: hybrid[path] for path in hybrid if not any(path.startswith(f"{p}.") for p in hybrid)}
    if not candidates:
        raise InputError(
            f"model {name}: no list of {num_layers} layers with attention or another token mixer was found; "
            "only transformers with one stack of decoder or encoder layers can be read"
        )
    if len(candidates) > 1:
        raise InputError(f"model {name}: several lists could be its layers ({', '.join(candidates)}); none is taken")
    (path, layers), *_ = candidates.items()
    return LayerLayout(path, tuple(map(_dissect, layers)))


def _has_two_stacks(network: nn.Module) -> bool:
    """Return whether a network has an encoder and a decoder with layers side by side."""
    stacks = {
        path
        for path, module in network.named_modules()
        if any(isinstance(child, nn.ModuleList) for child in module.children())
    }
    return any(path.removesuffix("decoder") + "encoder" in stacks for path in stacks if path.endswith("decoder"))


def part_kind(layer: nn.Module, path: str) -> PartKind | None:
    """Return the part that a module inside a layer belongs to, judging by names; None if it belongs to neither.

    Args:
        layer: the layer.
        path: name of the module inside the layer.
    """
    names = path.split(".")
    if ADAPTER_NAMES.search(path):
        return None
    for depth in range(1, len(names) + 1):
        label = _own_name(layer.get_submodule(".".join(names[:depth])), layer)
        if MLP_LABELS.search(names[depth - 1]):
            return "mlp"
        for text in (label, names[depth - 1]):
            if NORM_NAMES.search(label) and not MIXER_NAMES.search(label):
                continue
            if MIXER_NAMES.search(text):
                return "mixer"
            if text not in {"Linear", "Conv1D"} and MLP_NAMES.search(text):
                return "mlp"
    return None


def is_norm(module: nn.Module, layer: nn.Module) -> bool:
    """Return whether a module inside a layer normalises, by its name."""
    return bool(NORM_NAMES.search(_own_name(module, layer)))


def _own_name(module: nn.Module, layer: nn.Module) -> str:
    """Return a module's class name without the model's name, the prefix that it shares with the layer's class name."""
    own, other = type(module).__name__, type(layer).__name__
    common = next((i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), 0)
    return own[common:]


def _dissect(layer: nn.Module) -> Block:
    mixer = _attention(layer) or _child_of_kind(layer, "mixer")
    inside_mixer = set(mixer.modules()) if mixer is not None else set()
    experts = next((m for m in layer.modules() if holds_experts(m) and m not in inside_mixer), None)
    projection = experts or _last_projection(layer, inside_mixer)
    if projection is None:
        return Block(layer, mixer, _child_of_kind(layer, "mlp"), None)
    mlp = next(child for child in layer.children() if any(m is projection for m in child.modules()))
    children = dict(layer.named_children())
    mixer_exit = next((children[n] for n in ATTENTION_EXIT_NORMS if n in children), None)
    mlp_exit = next((children[n] for n in MLP_EXIT_NORMS if n in children), None)
    if mixer_exit is None or mlp_exit is None:
        mixer_exit, mlp_exit = mixer and _before_the_norm(mixer), _before_the_norm(mlp)
    return Block(layer, mixer_exit, mlp_exit, None if experts else projection, experts)


def _attention(layer: nn.Module) -> nn.Module | None:
    """Return the layer's own attention: its first child whose class is named for it."""
    return next((child for child in layer.children() if "attention" in type(child).__name__.lower()), None)


def _child_of_kind(layer: nn.Module, kind: PartKind) -> nn.Module | None:
    children = ((name, child) for name, child in layer.named_children() if any(True for _ in child.children()))
    return next((child for name, child in children if part_kind(layer, name) == kind), None)


def _has_part(layer: nn.Module) -> bool:
    return _child_of_kind(layer, "mixer") is not None or _child_of_kind(layer, "mlp") is not None


def _last_projection(layer: nn.Module, inside_mixer: set[nn.Module]) -> nn.Module | None:
    """Return the last linear map of the feed-forward part, in order of registration."""
    linear = [
        module
        for name, module in layer.named_modules()
        if is_linear(module) and module not in inside_mixer and part_kind(layer, name) == "mlp"
    ]
    return linear[-1] if linear else None


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear map; quantised classes are recognised only by the names of their widths."""
    return isinstance(module, nn.Linear | Conv1D) or (
        isinstance(getattr(module, "in_features", None), int) and isinstance(getattr(module, "out_features", None), int)
    )


def holds_experts(module: nn.Module) -> bool:
    """Return whether a module holds the weights of all experts of a mixture in tensors with an axis for the expert."""
    down = getattr(module, "down_proj", None)
    return isinstance(down, nn.Parameter) and down.ndim == 3


def _before_the_norm(part: nn.Module) -> nn.Module:
    """Return the last projection of a part that itself adds the residual and normalises; otherwise the part."""
    for module in (part, *part.children()):
        last_projection = None
        for child in module.children():
            if is_linear(child):
                last_projection = child
            elif "norm" in type(child).__name__.lower() and last_projection is not None and len(_linear(module)) == 1:
                return last_projection
    return part


def _linear(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if is_linear(child)]


def first_position(backbone: nn.Module) -> int:
    """Return the position id of a prompt's first token; models like RoBERTa count from the padding index plus one."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def layer_parameters(anatomy: LayerLayout) -> Iterator[tuple[int, float]]:
    """Yield each layer's number of parameters and the Frobenius norm of them all, in order of layers.

    The norm is NaN if weights are stored as integers or 8-bit floats, because these are codes that only their quantiser
    can decode.
    """
    for block in anatomy.blocks:
        parameters = list(block.module.parameters())
        # Quantised weights may be buffers; a mask is none.
        stored = [*parameters, *(b for b in block.module.buffers() if b.ndim > 1 and b.dtype != torch.bool)]
        square = math.nan
        if all(tensor.is_floating_point() and tensor.itemsize > 1 for tensor in stored):
            square = sum(float(p.detach().double().square().sum()) for p in parameters)
        yield sum(p.numel() for p in parameters), square**0.5
