"""Reading activations at taps: hooks of modules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def first_tensor(output: Any) -> Tensor:
    """Return a module's output, or the first of its outputs."""
    tensor = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected a tensor, not {type(tensor).__name__}")
    return tensor


def hidden_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states that a module was called with."""
    tensor = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(tensor, Tensor):
        raise TypeError(f"expected hidden states, not {type(tensor).__name__}")
    return tensor


def on_input(module: nn.Module, read: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `read` with the module's hidden input, before the module runs."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(hidden_input(args, kwargs))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def on_experts(experts: nn.Module, read: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Call `read` with the hidden activations of a mixture's chosen experts, after the gate or the non-linearity.

    They have shape (B * S, chosen * width): the activations of a token's experts side by side, in order of the router's
    choice. transformers computes them sorted by expert; this function restores the order of tokens.
    """
    chosen: list[Tensor] = []

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        chosen[:] = [args[1] if len(args) > 1 else kwargs["top_k_index"]]

    def read_in_order(hidden: Tensor) -> None:
        index = chosen.pop()
        by_slot = torch.empty_like(hidden)
        by_slot[torch.sort(index.reshape(-1)).indices] = hidden
        read(by_slot.view(len(index), -1))

    handle = experts.register_forward_pre_hook(before, with_kwargs=True)
    if not experts.has_gate:
        activation: Any = experts.act_fn
        return [handle, on_output(activation, read_in_order)]
    gate: Any = experts._apply_gate

    def apply_gate(projected: Tensor) -> Tensor:
        hidden: Tensor = gate(projected)
        read_in_order(hidden)
        return hidden

    experts._apply_gate = apply_gate  # type: ignore[assignment]
    return [handle, _Restored(experts)]


class _Restored(RemovableHandle):
    """Restores the gate of a module's class."""

    def __init__(self, experts: nn.Module) -> None:
        self._experts = experts

    def remove(self) -> None:
        del self._experts._apply_gate


def on_output(module: nn.Module, read: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `read` with the module's first output, after the module ran."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        read(first_tensor(output))

    return module.register_forward_hook(hook)
