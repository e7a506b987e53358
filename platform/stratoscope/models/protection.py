"""Layers that a model cannot do without, found by trying to describe the model without them.

A layer is protected if the others depend on it: the only layer with a norm for the embeddings, the last layer of a
type, or the last layer of the model if its position makes it special. The trials need no weights: the names and shapes
of weights and the constants of a pruned model are compared with those of a model built from the pruned configuration
(`stratoscope.models.structure`), and a small random copy runs without the layers (`stratoscope.models.rehearsal`).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stratoscope.errors import InputError, last_line
from stratoscope.models.anatomy import LayerLayout, find_anatomy
from stratoscope.models.classes import empty_model, num_layers_of
from stratoscope.models.load import LoadedModel, load_config
from stratoscope.models.prune import without_layers
from stratoscope.models.rehearsal import rehearse
from stratoscope.models.source import ModelSource
from stratoscope.models.structure import differences

Problem = Callable[[Sequence[int]], str]
"""Returns why a model cannot do without some layers; empty if it can."""
MOST_TRIALS = 60
"""Largest number of sets of layers that are tried."""


def find_protected_layers(source: ModelSource, *, trust_remote_code: bool = False) -> tuple[int, ...]:
    """Return the layers that have to be kept, in order, without reading a weight.

    Raises:
        InputError: no configuration describes the model without layers, or more than half of them would be protected.
    """
    config = load_config(source, trust_remote_code=trust_remote_code)
    _, network = empty_model(config, source.name, head=True, trust_remote_code=trust_remote_code)
    num_layers = num_layers_of(config)
    model = LoadedModel(network, None, find_anatomy(network, num_layers), network.device)
    label = f"model.source {source.name!r} ({config.model_type}) cannot be pruned"
    if any(hasattr(block.module, "backward_pass") for block in model.anatomy.blocks):
        raise InputError(f"{label}: its layers are reversible and carry two streams; choose another model")
    sets = list(_sets_to_try(model.anatomy, config.get_text_config()))
    protected = protect(sets, num_layers, lambda dropped: _structural_problem(model, dropped), label)
    chosen = _typical_layers(model.anatomy, config.get_text_config(), protected)
    with without_layers(model, [layer for layer in range(num_layers) if layer not in chosen]) as shorter:
        rehearsal = rehearse(network, copy.deepcopy(shorter.network.config))
    if rehearsal is None:
        return protected
    if not rehearsal.passes_on_hidden_states_alone():
        raise InputError(f"{label}: its layers pass on more than their hidden states; choose another model")
    layout = rehearsal.model.anatomy
    sets = list(_sets_to_try(layout, rehearsal.model.network.config.get_text_config()))
    kept = [place for place, layer in enumerate(chosen) if layer in protected]
    found = protect(sets, len(layout), rehearsal.problem, label, kept)
    return tuple(chosen[place] for place in found)


def protect(
    sets: Sequence[Sequence[int]], num_layers: int, problem: Problem, label: str, protected: Sequence[int] = ()
) -> tuple[int, ...]:
    """Return the layers to protect so that no set, without them, causes a problem.

    Args:
        sets: sets of layers to drop.
        num_layers: number of layers of the model.
        problem: returns why the model cannot do without some layers.
        label: first words of an error.
        protected: layers that are protected already.

    Raises:
        InputError: more than half of the layers would have to be protected.
    """
    search = _Search(problem, set(protected))
    for layers in sets:
        while reason := search.problem(layers):
            search.protected.add(search.culprit([layer for layer in layers if layer not in search.protected]))
            if len(search.protected) > num_layers // 2 or search.trials > MOST_TRIALS:
                raise InputError(
                    f"{label}: its configuration cannot describe the model without some layers ({reason}); choose "
                    "another model"
                )
    return tuple(sorted(search.protected))


@dataclass
class _Search:
    """A search for layers that have to be kept."""

    tried: Problem
    protected: set[int]
    trials: int = 0
    _known: dict[tuple[int, ...], str] = field(default_factory=dict)

    def problem(self, layers: Sequence[int]) -> str:
        """Return the problem caused by dropping a set of layers, except the protected ones; empty if there is none."""
        dropped = tuple(layer for layer in layers if layer not in self.protected)
        if dropped and dropped not in self._known:
            self.trials += 1
            self._known[dropped] = self.tried(dropped)
        return self._known.get(dropped, "")

    def culprit(self, layers: Sequence[int]) -> int:
        """Return a layer to keep: one that causes the problem alone, or the first of several that cause it together."""
        if len(layers) == 1:
            return layers[0]
        middle = len(layers) // 2
        for part in ([layers[0]], [layers[-1]], layers[:middle], layers[middle:]):
            if self.problem(part):
                return self.culprit(part)
        return layers[0]


def _typical_layers(anatomy: LayerLayout, text: Any, protected: Sequence[int]) -> list[int]:
    """Return a few representative layers: those at the ends, two of each kind, and the protected ones."""
    last = len(anatomy) - 1
    examples = {layer for kind in _kinds(anatomy, text) for layer in kind[:2]}
    return sorted({0, min(1, last), max(last - 1, 0), last, *protected} | examples)


def _sets_to_try(anatomy: LayerLayout, text: Any) -> Iterator[Sequence[int]]:
    """Yield sets of layers: single layers and a pair near the ends, every other layer, and all layers of each kind."""
    num_layers = len(anatomy)
    ends = ([0], [1], [num_layers - 1], [1, 2], range(0, num_layers - 1, 2), range(1, num_layers, 2))
    yield from (layers for layers in ends if len(layers) < num_layers and max(layers, default=0) < num_layers)
    kinds = list(_kinds(anatomy, text))
    for layers in dict.fromkeys(kinds):
        if 0 < len(layers) < num_layers:
            yield layers


def _kinds(anatomy: LayerLayout, text: Any) -> Iterator[tuple[int, ...]]:
    """Yield the layers of each kind: those with a part of the same class, or of the same type in a list of types."""
    features: dict[tuple[str, Any], list[int]] = {}
    for layer, block in enumerate(anatomy.blocks):
        for name, child in block.module.named_children():
            features.setdefault((name, type(child)), []).append(layer)
    for name, values in text.to_dict().items():
        if isinstance(values, list) and len(values) == len(anatomy):
            for layer, value in enumerate(values):
                features.setdefault((name, str(value)), []).append(layer)
    yield from map(tuple, features.values())


def _structural_problem(model: LoadedModel, dropped: Sequence[int]) -> str:
    """Return why a configuration cannot describe a model without some layers; empty if it can."""
    try:
        with without_layers(model, dropped) as pruned:
            return differences(pruned)
    except InputError:
        raise
    except Exception as error:  # configurations raise any exception
        return last_line(error).strip()
