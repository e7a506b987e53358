"""Where a model keeps its layers, and where in a layer things happen, found by structure.

Layers are the one list of modules in the network that is as long as the configuration says and whose members all hold
an attention module. Inside a layer, what attention and the feed-forward part add to the residual stream is the output
of those modules, or of the normalisation behind them where a model has one (sandwich norms).
"""

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
    mlp_output: nn.Module
    """The last projection of the feed-forward part; its input is the hidden activation after the non-linearity."""


@dataclass(frozen=True)
class Anatomy:
    """The layers of a network, in order, and the name under which the network keeps them."""

    path: str
    blocks: tuple[Block, ...]

    def __len__(self) -> int:
        return len(self.blocks)


def find_anatomy(network: nn.Module, num_layers: int) -> Anatomy:
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
    return Anatomy(path, tuple(_dissect(layer, f"{name}.{path}.{i}") for i, layer in enumerate(layers)))


def _dissect(layer: nn.Module, where: str) -> Block:
    attention, mlp_output = _attention(layer), _last_projection(layer)
    if attention is None or mlp_output is None:
        raise InputError(f"{where}: no attention or no feed-forward part was found in {type(layer).__name__}")
    mlp = _child_holding(layer, mlp_output)
    exit_norms = dict(layer.named_children())
    mlp_exit = next((exit_norms[n] for n in MLP_EXIT_NORMS if n in exit_norms), None)
    attention_exit = next((exit_norms[n] for n in ATTENTION_EXIT_NORMS if n in exit_norms), None)
    if mlp_exit is None or attention_exit is None:
        return Block(layer, attention, mlp, mlp_output)
    return Block(layer, attention_exit, mlp_exit, mlp_output)


def _attention(layer: nn.Module) -> nn.Module | None:
    """Return the layer's own attention: its first child whose class is named for it."""
    return next((child for child in layer.children() if "attention" in type(child).__name__.lower()), None)


def _last_projection(layer: nn.Module) -> nn.Module | None:
    """Return the last linear map, in order of registration, that lies outside attention."""
    attention = _attention(layer)
    inside_attention = set(attention.modules()) if attention is not None else set()
    linear = [m for m in layer.modules() if isinstance(m, nn.Linear | Conv1D) and m not in inside_attention]
    return linear[-1] if linear else None


def _child_holding(layer: nn.Module, wanted: nn.Module) -> nn.Module:
    return next(child for child in layer.children() if any(m is wanted for m in child.modules()))


def layer_parameters(anatomy: Anatomy) -> Iterator[tuple[int, float]]:
    """Yield each layer's number of parameters and the Frobenius norm of them all, in order of layers."""
    for block in anatomy.blocks:
        parameters = list(block.module.parameters())
        square = sum(float(p.detach().double().square().sum()) for p in parameters)
        yield sum(p.numel() for p in parameters), square**0.5
