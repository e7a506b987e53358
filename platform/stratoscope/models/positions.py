"""Scaling of rotary positions, as far as it depends on the length of sequences.

transformers scales the positions of a whole batch by its longest sequence. LongRoPE has other factors for sequences
that are longer than those of the first training; dynamic NTK scaling has others for every length beyond the model's
positions. Only sequences whose positions are scaled alike may share a batch, or a sequence's results would depend on
the others.

Source: transformers, `modeling_rope_utils.dynamic_rope_update`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

LONGROPE = ("longrope", "su")
"""Names of LongRoPE; the second is that of Phi-3's first configurations."""
DYNAMIC = "dynamic"
"""Part of the name of every dynamic scaling."""


@dataclass(frozen=True)
class PositionScaling:
    """Lengths of sequences at which a model begins to scale positions in another way."""

    switches: tuple[int, ...] = ()
    """Lengths beyond which all sequences have other factors."""
    stretches: tuple[int, ...] = ()
    """Lengths beyond which every length has its own factors."""

    @property
    def first_limit(self) -> int | None:
        """Length up to which all sequences are scaled alike; None if all are."""
        return min((*self.switches, *self.stretches), default=None)

    def class_of(self, length: int) -> int:
        """Return the class of a length: lengths of one class are scaled alike. It does not fall with the length."""
        return sum(length > limit for limit in self.switches) + sum(max(0, length - limit) for limit in self.stretches)

    def classes(self, lengths: Iterable[int]) -> list[int]:
        """Return the class of each length."""
        return [self.class_of(length) for length in lengths]

    def separates(self, lengths: Sequence[int]) -> bool:
        """Return whether some of the lengths are scaled in another way than others."""
        return self.class_of(min(lengths)) != self.class_of(max(lengths))


def position_scaling(network: nn.Module) -> PositionScaling:
    """Read the lengths from the configurations of a network and of the networks in it."""
    configs = {id(config): config for config in (getattr(module, "config", None) for module in network.modules())}
    switches: set[int] = set()
    stretches: set[int] = set()
    for config in configs.values():
        for parameters in _rope_parameters(config):
            name = str(parameters.get("rope_type") or parameters.get("type"))
            if name in LONGROPE:
                switches |= _known(parameters.get("original_max_position_embeddings"), config)
            elif DYNAMIC in name:
                stretches |= _known(getattr(config, "max_position_embeddings", None), config)
    return PositionScaling(tuple(sorted(switches)), tuple(sorted(stretches)))


def _rope_parameters(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rotary parameters of a configuration, which may have some for each type of layer."""
    parameters = getattr(config, "rope_parameters", None)
    if isinstance(parameters, Mapping):
        yield parameters
        yield from (inner for inner in parameters.values() if isinstance(inner, Mapping))


def _known(length: int | None, config: Any) -> set[int]:
    """Return a length as a set; if it is not stated, the original number of positions of the configuration."""
    for name in ("original_max_position_embeddings", "max_position_embeddings"):
        length = getattr(config, name, None) if length is None else length
    return set() if length is None else {int(length)}


def scale_each_pass_anew(network: nn.Module) -> None:
    """Make dynamic scaling in a network a function of the sequences of each pass alone.

    transformers keeps the factors of the longest sequence until one comes that is shorter than the model's positions,
    so results would depend on earlier batches.
    """
    for module in network.modules():
        if any(DYNAMIC in name for name in _rope_types(module).values()):
            module.register_forward_pre_hook(_reset)


def _rope_types(module: nn.Module) -> dict[str, str]:
    """Return the names of a rotary embedding's scalings by the prefix of their attributes; empty for other modules."""
    types = getattr(module, "rope_type", None)
    if isinstance(types, str):
        return {"": types}
    return {f"{kind}_": name for kind, name in types.items() if name} if isinstance(types, dict) else {}


def _reset(module: nn.Module, _inputs: Any) -> None:
    """Forget the longest sequence of earlier passes."""
    for prefix, name in _rope_types(module).items():
        if DYNAMIC in name:
            setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq"))
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
