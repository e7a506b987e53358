"""Every model type of transformers, tiny and random, against what a plain forward pass of it shows.

A checkpoint of each type is written, loaded as a user would load it, read at every tap, pruned and exported. What is
right comes from `trace`, which knows nothing of the package's anatomy. Run as a program it writes one JSON line a type,
goes on where it was stopped, and compares the table with the committed one (`make sweep`).
"""

import argparse
import contextlib
import gc
import json
import logging
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.models import zoo
from tests.models.outcomes import (
    COLUMNS,
    REFUSED,
    RIGHT,
    TABLE,
    TRACEBACK,
    UNBUILDABLE,
    WRONG,
    Cell,
    Row,
    changes,
    read_page,
    read_rows,
    read_table_text,
    table,
    totals_table,
)
from tests.models.trace import hidden_input
from tests.models.truth import LENGTHS, PART_TOLERANCE, READ_TOLERANCE, Truth, make_prompts, padded

DROPS = ((0,), (1,), (3,), (1, 2))
LAST = ("cpmant",)
"""Types that put tokens of their own before a prompt's."""
TIMEOUT = 60


class SweepTimeoutError(Exception):
    """A type took too long."""


def sweep(family: str, model_type: str, timeout: int = TIMEOUT) -> Row:
    """Try one type."""
    row = Row(family, model_type)
    try:
        with (
            _alarm(timeout),
            _one_thread(),
            warnings.catch_warnings(),
            tempfile.TemporaryDirectory(prefix="sweep-") as aside,
        ):
            warnings.simplefilter("ignore")
            tried = _Sweep(row, Path(aside))
            try:
                tried.run()
            finally:
                tried.clean()
    except SweepTimeoutError:
        for column in COLUMNS:
            row.cells.setdefault(column, Cell(TRACEBACK, f"took more than {timeout} s"))
    return row


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep tiny products from being shared among threads, which only costs time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise SweepTimeoutError

    # Seconds of this process's own work: other work on the machine does not count, and pytest has the other alarm.
    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(action: Callable[[], Cell]) -> Cell:
    """Run the check of one column and turn what it raises into its outcome."""
    from stratoscope.errors import InputError

    try:
        return action()
    except InputError as error:
        lines = str(error).strip().split("\n")
        return Cell(REFUSED, lines[0]) if len(lines) == 1 else Cell(TRACEBACK, f"a message of {len(lines)} lines")
    except SweepTimeoutError:
        raise
    except Exception as error:
        return Cell(TRACEBACK, _where(error))


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = (str(error).strip() or "-").split("\n")[0][:200]
    return f"{type(error).__name__}: {message} ({Path(frame.filename).name}:{frame.lineno})"


class _Sweep:
    def __init__(self, row: Row, aside: Path) -> None:
        self.row, self.folder, self.aside = row, aside / "model", aside
        self.prompts: list[Tensor] = []

    def run(self) -> None:
        try:
            network = zoo.tiny_model(self.row.family, self.row.model_type)
            self.row.architecture = type(network).__name__
            self.prompts = make_prompts(network)
            self.describe(network)
            network.save_pretrained(self.folder)
            zoo.write_tokenizer(self.folder)
            self.reload(network)
        except SweepTimeoutError:
            raise
        except Exception as error:
            message = (str(error).strip() or "-").split("\n")
            line = next((x.strip() for x in message[1:] if x.strip()), "") if "lidation" in message[0] else ""
            self.row.cells = {
                c: Cell(UNBUILDABLE, f"{type(error).__name__}: {message[0][:200]} {line}") for c in COLUMNS
            }
            return
        self.read()
        if self.row.cells["read"].outcome == REFUSED:
            with contextlib.suppress(Exception):
                self.row.layers += [f"{i}: {text}" for i, text in enumerate(Truth(network, self.prompts).describe())]
        del network
        self.prune()

    def describe(self, network: nn.Module) -> None:
        """Note what the layers of a network look like."""
        lists = {
            path: module
            for path, module in network.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == zoo.NUM_LAYERS and list(module[0].children())
        }
        for path, module in lists.items():
            if not any(path.startswith(f"{other}.") for other in lists if other != path):
                kinds = [
                    f"{path} {type(layer).__name__}"
                    f"({', '.join(f'{n}: {type(c).__name__}' for n, c in layer.named_children())})"
                    for layer in module
                ]
                self.row.layers += dict.fromkeys(kinds)

    def reload(self, network: Any) -> None:
        """See that transformers itself loads what it saved."""
        fresh = type(network).from_pretrained(self.folder).eval()
        before, after = network.state_dict(), fresh.state_dict()
        differ = [n for n in before if n not in after or not torch.equal(before[n].nan_to_num(), after[n].nan_to_num())]
        differ = [n for n in differ if n in dict(network.named_parameters())]
        if differ:
            raise ValueError(f"transformers does not load what it saves: {', '.join(differ[:2])}")

    def read(self) -> None:
        from stratoscope.activations import Tap
        from stratoscope.models import load_model

        columns = ("read", "left", "attention", "mlp", "mlp_hidden")
        loaded: list[Any] = []

        def load() -> Cell:
            loaded.append(load_model(str(self.folder)))
            return Cell(RIGHT)

        outcome = attempt(load)
        if outcome.outcome != RIGHT:
            self.row.cells |= dict.fromkeys(columns, outcome)
            return
        (model,) = loaded
        try:
            reference = type(model.network).from_pretrained(self.folder).eval()
            truth = Truth(reference, self.prompts, last=self.row.model_type in LAST)
        except SweepTimeoutError:
            raise
        except Exception as error:
            self.row.layers.append(f"no reference: {_where(error)}")
            truth = None
        if truth is not None:
            self.row.layers += [f"{i}: {text}" for i, text in enumerate(truth.describe())]
        cells = self.row.cells
        if truth is None or not truth.layers:
            # No plain pass of text: nothing may be reported.
            cells["read"] = attempt(lambda: self.measured(model, [Tap.BLOCK, Tap.UPDATE], "right", None))
            if cells["read"].outcome == RIGHT:
                cells["read"] = Cell(WRONG, "numbers, though a plain pass of text does not run or has no layers")
            cells |= dict.fromkeys(columns[1:], cells["read"])
            return
        if not _same_list(model.anatomy.path, truth.path):
            wrong = Cell(WRONG, f"reads {model.anatomy.path}, and the layers are {truth.path}")
            cells |= dict.fromkeys(columns, wrong)
            return
        cells["read"] = attempt(lambda: self.both_ways(model, [Tap.BLOCK, Tap.UPDATE], truth))
        supported = attempt(lambda: truth.padded_alike("left"))
        cells["left"] = attempt(lambda: self.measured(model, [Tap.BLOCK, Tap.UPDATE], "left", truth))
        if cells["left"].outcome != RIGHT and supported.outcome != RIGHT:
            cells["left"] = Cell(REFUSED, f"the model does not support it: {supported.detail}")
        for tap in (Tap.ATTENTION, Tap.MLP, Tap.MLP_HIDDEN):
            cells[str(tap)] = attempt(lambda tap=tap: self.both_ways(model, [tap], truth))

    def both_ways(self, model: Any, taps: Sequence[Any], truth: "Truth") -> Cell:
        """Compare prompts in one padded batch, and each in a batch of its own."""
        cells = [self.measured(model, taps, side, truth) for side in ("right", "alone")]
        return next((cell for cell in cells if cell.outcome == WRONG), cells[0])

    def measured(self, model: Any, taps: Sequence[Any], side: str, truth: "Truth | None") -> Cell:
        """Compare what the probe measures with the truth."""
        from stratoscope.activations import Probe

        # A batch without padding takes other ways through the probe than one with it.
        batches = [[prompt] for prompt in self.prompts] if side == "alone" else [self.prompts]
        with Probe(model, taps) as probe:
            measured = [probe.measure(*padded(batch, side)).statistics for batch in batches]
        if truth is None:
            return Cell(RIGHT)
        wrong: list[str] = []
        withdrawn = 0
        for column, tap in enumerate(taps):
            tolerance = READ_TOLERANCE if str(tap) in {"block", "update"} else PART_TOLERANCE
            for prompt in range(len(LENGTHS)):
                statistics, place = (measured[prompt], 0) if side == "alone" else (measured[0], prompt)
                for layer in range(len(truth.layers)):
                    got = tuple(
                        float(getattr(statistics, name)[place, layer, column]) for name in ("count", "mean", "m2")
                    )
                    problem = truth.compare(str(tap), prompt, layer, got, tolerance)
                    withdrawn += problem == "null"
                    if problem not in {"", "null"}:
                        wrong.append(f"{tap} layer {layer} prompt {prompt}{' alone' * (side == 'alone')}: {problem}")
        if wrong:
            layers = sorted({text.split(" prompt")[0] for text in wrong})
            return Cell(WRONG, f"{wrong[0]}; in all: {', '.join(layers)}")
        if withdrawn:
            return Cell(REFUSED, f"no numbers in {withdrawn} of {len(LENGTHS) * len(truth.layers)} places")
        return Cell(RIGHT)

    def prune(self) -> None:
        from stratoscope.models import check_prunable, find_protected_layers, load_model, resolve_source

        loaded: list[Any] = []
        protected: list[int] = []

        def load() -> Cell:
            from stratoscope.models import load_config

            source = resolve_source(str(self.folder))
            check_prunable(load_config(source), self.row.model_type)
            protected.extend(find_protected_layers(source))
            loaded.append(load_model(str(self.folder), head=True))
            _aligned(loaded[0].network)
            return Cell(RIGHT)

        outcome = attempt(load)
        if outcome.outcome != RIGHT:
            self.row.cells |= {"prune": outcome, "format": outcome}
            return
        drops = dict.fromkeys(tuple(layer for layer in drop if layer not in protected) for drop in DROPS)
        cells = {str(list(drop)): attempt(lambda drop=drop: self.pruned(loaded[0], drop)) for drop in drops if drop}
        for rank in (TRACEBACK, WRONG, REFUSED, RIGHT):
            worst = {name: cell for name, cell in cells.items() if cell.outcome == rank}
            if worst:
                cell = next(iter(worst.values()))
                detail = f"dropping {', '.join(worst)}: {cell.detail}" if rank != RIGHT else _protection(protected)
                self.row.cells["prune"] = Cell(rank, detail)
                break
        self.row.cells["format"] = attempt(lambda: self.exported_format(min({1, 2, 3} - set(protected))))

    def clean(self) -> None:
        """Take what differs from run to run out of the messages."""
        for cell in self.row.cells.values():
            cell.detail = cell.detail.replace(str(self.folder), "model").replace(str(self.aside), "")

    def pruned(self, model: Any, drop: Sequence[int]) -> Cell:
        """Compare a pruned model in memory with the whole one that skips layers, and with its export loaded plainly."""
        from stratoscope.models import export_pruned, without_layers

        ids = self.prompts[0].unsqueeze(0)
        folder = self.aside / f"pruned-{'-'.join(map(str, drop))}"
        if not _is_causal(model.network, ids):
            return Cell(WRONG, "it attends to later tokens, so it is no causal language model")
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        with torch.no_grad(), without_layers(model, drop) as pruned:
            memory = pruned.network(input_ids=ids, use_cache=False).logits
        layers = model.network.get_submodule(model.anatomy.path)
        skipped = _skipping(type(model.network).from_pretrained(self.folder).eval(), model.anatomy.path, drop, ids)
        if any(not torch.equal(value, before[name]) for name, value in model.network.state_dict().items()):
            return Cell(WRONG, "the model is not put back")
        export_pruned(model, drop, folder, _card())
        fresh = _aligned(type(model.network).from_pretrained(folder).eval())
        with torch.no_grad():
            loaded = fresh(input_ids=ids, use_cache=False).logits
        del layers
        if not torch.equal(loaded, memory):
            return Cell(WRONG, f"the export's logits differ by {float((loaded - memory).abs().max()):.2g}")
        scale = float(skipped.abs().max())
        if not torch.allclose(memory, skipped, rtol=0, atol=1e-4 * scale):
            apart = float((memory - skipped).abs().max()) / scale
            return Cell(WRONG, f"kept layers compute something else than in the whole model (logits {apart:.2g} apart)")
        return Cell(RIGHT)

    def exported_format(self, dropped: int) -> Cell:
        """Export from a checkpoint in bfloat16 and compare the number formats of both files."""
        from transformers import AutoConfig

        from stratoscope.models import export_pruned, load_model

        folder, target = self.aside / "bfloat16", self.aside / "bfloat16-pruned"
        network = zoo.FAMILIES[self.row.family][1].from_pretrained(self.folder, dtype=torch.bfloat16)
        network.save_pretrained(folder)
        zoo.write_tokenizer(folder)
        export_pruned(load_model(str(folder), head=True), [dropped], target, _card())
        formats = [_formats(path) for path in (folder, target)]
        # A dropped layer may have held all tensors of a second format.
        if "BF16" not in formats[1] or not set(formats[1]) <= set(formats[0]):
            return Cell(WRONG, f"a checkpoint of {formats[0]} is exported as {formats[1]}")
        declared = [str(AutoConfig.from_pretrained(path).dtype) for path in (folder, target)]
        return (
            Cell(RIGHT) if declared[0] == declared[1] else Cell(WRONG, f"config.json: {declared[1]}, not {declared[0]}")
        )


def _card() -> Any:
    from stratoscope.models import ModelCard

    return ModelCard("owner/model", "nobody", [])


@torch.no_grad()
def _is_causal(network: Any, ids: Tensor) -> bool:
    """Tell whether the logits of a token depend on no later one."""
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    whole, changed = (network(input_ids=x, use_cache=False).logits[:, :-1] for x in (ids, other))
    return torch.allclose(whole, changed, rtol=0, atol=1e-4 * float(whole.abs().max()))


def _aligned(network: Any) -> Any:
    """Move weights to memory of their own: a product's last bit depends on where in a file they were mapped from."""
    for tensor in [*network.parameters(), *network.buffers()]:
        tensor.data = tensor.data.clone()
    return network


def _protection(protected: Sequence[int]) -> str:
    """Return a note on the layers that are kept because others depend on them."""
    return f"without dropping {', '.join(map(str, protected))} of the {zoo.NUM_LAYERS} layers" if protected else ""


def _formats(folder: Path) -> list[str]:
    from safetensors import safe_open

    formats = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            formats |= {str(weights.get_slice(name).get_dtype()) for name in weights.keys()}  # noqa: SIM118
    return sorted(formats)


def _skipping(network: Any, path: str, drop: Sequence[int], ids: Tensor) -> Tensor:
    """Return the logits of a whole model in which some layers pass on what they are given."""

    def skip(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = hidden_input(args, kwargs)
        # A layer may carry several streams.
        streams = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.shape == hidden.shape]
        if isinstance(output, Tensor):
            return hidden
        values = list(output)
        places = [i for i, x in enumerate(values) if isinstance(x, Tensor) and x.shape == hidden.shape]
        for place, stream in zip(places, streams, strict=False):
            values[place] = stream
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)

    layers = network.get_submodule(path)
    for layer in drop:
        layers[layer].register_forward_hook(skip, with_kwargs=True)
    with torch.no_grad():
        logits: Tensor = network(input_ids=ids, use_cache=False).logits
    return logits


def _same_list(a: str, b: str) -> bool:
    return a == b or a.endswith(f".{b}") or b.endswith(f".{a}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Sweep; return 1 where the outcome differs from the table that is committed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="model types, shown in detail; none for all")
    parser.add_argument("--result", type=Path, default=Path("sweep.jsonl"), help="one JSON line a type, to go on from")
    parser.add_argument("--again", action="store_true", help="try types again that the file has")
    parser.add_argument("--write", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument("--merge", action="store_true", help="write what the file has and keep the table's other types")
    options = parser.parse_args(arguments)
    quieten()
    rows = read_rows(options.result)
    if options.merge:
        rows = read_page(TABLE.read_text(encoding="utf-8")) | rows
        TABLE.write_text(table(list(rows.values())), encoding="utf-8")
        return 0
    for family, model_type in zoo.model_types():
        if (options.types and model_type not in options.types) or (model_type in rows and not options.again):
            continue
        row = rows[model_type] = sweep(family, model_type)
        gc.collect()
        print(
            f"{family} {model_type}: " + ", ".join(f"{c} {cell.outcome}" for c, cell in row.cells.items()), flush=True
        )
        if options.types:
            print("\n".join(f"    {c}: {cell.detail}" for c, cell in row.cells.items() if cell.detail))
            print("\n".join(f"    {text}" for text in row.layers))
        options.result.write_text("".join(json.dumps(asdict(r)) + "\n" for r in rows.values()), encoding="utf-8")
    if options.types:
        return 0
    print(totals_table(list(rows.values())))
    if options.write:
        TABLE.write_text(table(list(rows.values())), encoding="utf-8")
        return 0
    lines = changes(list(rows.values()), read_table_text(TABLE.read_text(encoding="utf-8") if TABLE.is_file() else ""))
    print("\n".join(lines) or "nothing changed")
    options.result.replace(options.result.with_suffix(".done.jsonl"))
    return int(bool(lines))


def quieten() -> None:
    """Keep transformers from writing what it always writes."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
