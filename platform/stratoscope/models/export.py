"""Export of pruned and fine-tuned models as standard checkpoints with a model card."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from stratoscope.errors import RunError
from stratoscope.models.checkpoint import quantisation_method
from stratoscope.models.classes import build_empty
from stratoscope.models.load import LoadedModel
from stratoscope.models.prune import kept_layers, without_layers
from stratoscope.models.saving import save_network
from stratoscope.models.source import BUNDLED_MODELS
from stratoscope.models.stored import restore_formats
from stratoscope.models.structure import differences

SLICES = "mergekit.yaml"


@dataclass(frozen=True)
class ModelCard:
    """Content of the card of a pruned or fine-tuned model."""

    base_model: str
    chosen_by: str
    """Rule that chose the layers, as the end of a sentence."""
    cost: Sequence[Sequence[str]]
    """Rows of a table: task, measure, before, after, retention, items."""
    command: str | None = None
    """Command that reproduces the model."""
    trained: str | None = None
    """Description of the training; None if no weight was changed."""
    speed: str | None = None
    """Speed compared with the base model's, as a sentence."""


def export_pruned(model: LoadedModel, dropped: Sequence[int], folder: Path, card: ModelCard) -> None:
    """Write a model without some of its layers as a checkpoint that `from_pretrained` loads.

    The weights of a model that was not trained are those of its checkpoint, bit for bit, in the same number format,
    whatever format the model computes in.

    Args:
        model: the complete model, with its causal head.
        dropped: numbers of the layers to leave out.
        folder: empty folder for the checkpoint.
        card: content of README.md.

    Raises:
        RunError: the saved configuration does not describe the saved weights.
    """
    num_layers = len(model.anatomy)
    with without_layers(model, dropped) as pruned:
        with _names_of_tied_weights(pruned):
            save_network(pruned.network, folder)
        pruned.tokenizer.save_pretrained(folder)
        _check_described(pruned, folder)
        dtype = str(pruned.network.dtype).removeprefix("torch.")
    if not card.trained and model.folder is not None and quantisation_method(model.network.config) is None:
        kept = kept_layers(num_layers, dropped)
        dtype = restore_formats(folder, model.folder, kept, model.stripped_prefixes) or dtype
    if not card.trained:
        original = _original(card.base_model, model)
        (folder / SLICES).write_text(slices_yaml(original, num_layers, dropped, dtype), encoding="utf-8")
    (folder / "README.md").write_text(_card_text(card, num_layers, dropped), encoding="utf-8")


def _original(name: str, model: LoadedModel) -> str:
    """Return a path or hub name of a model that mergekit can load: of a GGUF file, its converted copy."""
    is_gguf = name in BUNDLED_MODELS or name.endswith(".gguf")
    return str(model.folder) if is_gguf and model.folder is not None else name


def slices_yaml(base_model: str, num_layers: int, dropped: Sequence[int], dtype: str) -> str:
    """Return the mergekit configuration of the same model: each run of kept layers is a slice with an exclusive end."""
    slices = [
        {"sources": [{"model": base_model, "layer_range": [start, end]}]}
        for start, end in consecutive_runs(kept_layers(num_layers, dropped))
    ]
    return yaml.safe_dump({"slices": slices, "merge_method": "passthrough", "dtype": dtype}, sort_keys=False)


def consecutive_runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Return runs of consecutive layers as pairs of start and exclusive end."""
    runs: list[tuple[int, int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer:
            runs[-1] = (runs[-1][0], layer + 1)
        else:
            runs.append((layer, layer + 1))
    return runs


@contextmanager
def _names_of_tied_weights(pruned: LoadedModel) -> Iterator[None]:
    """Make a pruned network name its shared weights as a network built from its configuration does."""
    network = pruned.network
    modules = {path: module for path, module in network.named_modules() if "_tied_weights_keys" in vars(module)}
    if not modules:
        yield
        return
    built = build_empty(type(network), type(network.config).from_dict(network.config.to_dict()))
    before = {path: vars(module)["_tied_weights_keys"] for path, module in modules.items()}
    for path, module in modules.items():
        setattr(module, "_tied_weights_keys", built.get_submodule(path)._tied_weights_keys)  # noqa: B010
    try:
        yield
    finally:
        for path, module in modules.items():
            setattr(module, "_tied_weights_keys", before[path])  # noqa: B010


def _check_described(pruned: LoadedModel, folder: Path) -> None:
    """Check that a model built from the saved configuration has the saved weights."""
    from transformers import AutoConfig

    problem = differences(pruned, AutoConfig.from_pretrained(folder), constants=False)
    if problem:
        raise RunError(
            f"the pruned {type(pruned.network).__name__} cannot be exported: its configuration describes other weights "
            f"({problem})"
        )


def _card_text(card: ModelCard, num_layers: int, dropped: Sequence[int]) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=card.base_model if "/" in card.base_model and not Path(card.base_model).exists() else None,
        library_name="transformers",
        tags=(["pruned", "layer-pruning"] if dropped else []) + (["fine-tuned"] if card.trained else []),
    )
    layers = " ".join(map(str, sorted(dropped)))
    rows = ["| task | measure | before | after | retention | items |", "|---|---|---|---|---|---|"]
    rows += [f"| {' | '.join(row)} |" for row in card.cost]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {card.base_model} " + (f"without {len(dropped)} of its {num_layers} layers" if dropped else "fine-tuned"),
        *([f"Layers dropped, counted from 0 as in `model.layers`: **{layers}**."] if dropped else []),
        card.trained or "No weight was changed or trained.",
        f"Layers were chosen by {card.chosen_by}.",
        "Results on held-out items, which were not used to choose the layers; retention is after / before, with its "
        "interval:",
        "\n".join(rows),
        *([card.speed] if card.speed else []),
        *([] if card.trained else [f"`{SLICES}` describes the same model as slices of the original."]),
    ]
    if card.command:
        parts.append(f"Created with:\n\n```\n{card.command}\n```")
    return "\n\n".join(parts) + "\n"
