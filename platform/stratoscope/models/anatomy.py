"""Where a model keeps its layers, and where in a layer things happen, found by structure.

Layers are the one list of modules in the network that is as long as the configuration says and whose members all hold
an attention module. Inside a layer, what attention and the feed-forward part add to the residual stream is the output
of those modules, or of the normalisation behind them where a model has one (sandwich norms), or of their last
projection where the module itself adds the residual and normalises (BERT). In a mixture of experts it is what the
chosen experts add together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from stratoscope.errors import InputError

# Normalisations that stand between a sub-layer and the residual stream, by sub-layer. `post_attention_layernorm` alone
# does not count: most models call the norm before their feed-forward part so.
ATTENTION_EXIT_NORMS = ("post_self_attn_layernorm", "post_attention_layernorm")
MLP_EXIT_NORMS = ("post_mlp_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Block:
    """One layer: the module itself, and the modules whose output or input the taps read."""

    module: nn.Module
    attention: nn.Module
    """Its output is what attention adds to the residual stream."""
    mlp: nn.Module
    """Its output is what the feed-forward part adds to the residual stream."""
    mlp_output: nn.Module | None
    """The last projection of the feed-forward part; its input is the hidden activation after the non-linearity."""
    experts: nn.Module | None = None
    """Where the feed-forward part is a mixture: the module that holds all experts, whose projections are in one."""

    @property
    def has_gated_experts(self) -> bool:
        """Whether the layer's experts show what they hold after the gate, as transformers' grouped products do."""
        return hasattr(self.experts, "_apply_gate") and bool(getattr(self.experts, "has_gate", False))


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
        return all(block.mlp_output is not None or block.has_gated_experts for block in self.blocks)


def find_anatomy(network: nn.Module, num_layers: int) -> LayerLayout:
    """Find the layers of a network by structure.

    Args:
        network: any transformers model, with or without a head.
        num_layers: how many layers its configuration names.

    Raises:
        InputError: no list of modules fits, several do, or a layer has no recognisable attention or feed-forward part.
    """
    candidates = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == num_layers
        and all(_attention(layer) is not None for layer in module)
    }
    name = type(network).__name__
    if not candidates:
        raise InputError(
            f"model {name}: no list of {num_layers} layers with attention was found; "
            "only transformers with one stack of decoder or encoder layers can be read"
        )
    if len(candidates) > 1:
        raise InputError(f"model {name}: several lists could be its layers ({', '.join(candidates)}); none is taken")
    (path, layers), *_ = candidates.items()
    return LayerLayout(path, tuple(_dissect(layer, f"{name}.{path}.{i}") for i, layer in enumerate(layers)))


def _dissect(layer: nn.Module, where: str) -> Block:
    attention = _attention(layer)
    if attention is None:
        raise InputError(f"{where}: no attention was found in {type(layer).__name__}")
    experts = next((m for m in layer.modules() if _holds_experts(m)), None)
    projection = experts or _last_projection(layer, attention)
    if projection is None:
        raise InputError(f"{where}: no feed-forward part was found in {type(layer).__name__}")
    mlp = next(child for child in layer.children() if any(m is projection for m in child.modules()))
    children = dict(layer.named_children())
    attention_exit = next((children[n] for n in ATTENTION_EXIT_NORMS if n in children), None)
    mlp_exit = next((children[n] for n in MLP_EXIT_NORMS if n in children), None)
    if attention_exit is None or mlp_exit is None:
        attention_exit, mlp_exit = _before_the_norm(attention), _before_the_norm(mlp)
    return Block(layer, attention_exit, mlp_exit, None if experts else projection, experts)


def _attention(layer: nn.Module) -> nn.Module | None:
    """Return the layer's own attention: its first child whose class is named for it."""
    return next((child for child in layer.children() if "attention" in type(child).__name__.lower()), None)


def _last_projection(layer: nn.Module, attention: nn.Module) -> nn.Module | None:
    """Return the last linear map, in order of registration, that lies outside attention."""
    inside_attention = set(attention.modules())
    linear = [m for m in layer.modules() if _is_linear(m) and m not in inside_attention]
    return linear[-1] if linear else None


def _is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear map, be it quantised: the classes for that have only their widths in common."""
    return isinstance(module, nn.Linear | Conv1D) or (
        isinstance(getattr(module, "in_features", None), int) and isinstance(getattr(module, "out_features", None), int)
    )


def _holds_experts(module: nn.Module) -> bool:
    """Tell whether a module holds the weights of all experts of a mixture, one axis of them being the expert's."""
    down = getattr(module, "down_proj", None)
    return isinstance(down, nn.Parameter) and down.ndim == 3


def _before_the_norm(part: nn.Module) -> nn.Module:
    """Return the last projection of a part that adds the residual and normalises by itself, or else the part."""
    for module in (part, *part.children()):
        last_projection = None
        for child in module.children():
            if _is_linear(child):
                last_projection = child
            elif "norm" in type(child).__name__.lower() and last_projection is not None and len(_linear(module)) == 1:
                return last_projection
    return part


def _linear(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if _is_linear(child)]


def first_position(backbone: nn.Module) -> int:
    """Return the position id of a prompt's first token: RoBERTa and its like count from behind the padding's."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def layer_parameters(anatomy: LayerLayout) -> Iterator[tuple[int, float]]:
    """Yield each layer's number of parameters and the Frobenius norm of them all, in order of layers.

    The norm is NaN where weights are stored as integers, for only their quantiser knows what these stand for.
    """
    for block in anatomy.blocks:
        parameters = list(block.module.parameters())
        stored = [*parameters, *(b for b in block.module.buffers() if b.ndim > 1)]
        square = math.nan
        if all(tensor.is_floating_point() for tensor in stored):
            square = sum(float(p.detach().double().square().sum()) for p in parameters)
        yield sum(p.numel() for p in parameters), square**0.5
