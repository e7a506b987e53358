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
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.models import zoo
from tests.models.trace import LayerTrace, Tracer, hidden_input, hidden_output, token_rows

LENGTHS = (11, 5, 19)
"""Tokens of the prompts; no size inside a model is one of them."""
DROPS = ((0,), (1,), (3,), (1, 2))
COLUMNS = ("read", "left", "attention", "mlp", "mlp_hidden", "prune", "format")
RIGHT, REFUSED, WRONG, TRACEBACK, UNBUILDABLE = "right", "refused", "wrong", "traceback", "cannot be built"
READ_TOLERANCE, PART_TOLERANCE = 1e-5, 1e-4
LAST = ("cpmant",)
"""Types that put tokens of their own before a prompt's."""
TIMEOUT = 60


@dataclass
class Cell:
    """The outcome in one column."""

    outcome: str
    detail: str = ""


@dataclass
class Row:
    """The outcome for one type."""

    family: str
    model_type: str
    architecture: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    """The children of each kind of layer, and how its residual path looks."""


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
            self.prompts = _prompts(network)
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


def _prompts(network: Any) -> list[Tensor]:
    sizes = [zoo.VOCABULARY]
    with contextlib.suppress(NotImplementedError, AttributeError):
        sizes.append(network.get_input_embeddings().num_embeddings)
    return [torch.randint(4, min(sizes), (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


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


def padded(prompts: Sequence[Tensor], side: str, filler: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids and mask of prompts padded on a side."""
    longest = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), longest), filler)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if side == "right" else slice(longest - len(prompt), longest)
        ids[row, place], mask[row, place] = prompt, 1
    return ids, mask


def _same_list(a: str, b: str) -> bool:
    return a == b or a.endswith(f".{b}") or b.endswith(f".{a}")


class Truth:
    """What a network shows of each prompt that runs alone, without mask, padding or cache."""

    def __init__(self, network: Any, prompts: Sequence[Tensor], *, last: bool = False) -> None:
        self.network, self.prompts, self.last = network, prompts, last
        self.path, self.layers = self._find_layers()
        self.traces: list[list[LayerTrace]] = []
        if self.layers:
            for prompt in prompts:
                with torch.no_grad(), Tracer(network, self.layers, len(prompt), last=last) as tracer:
                    self._plain(prompt)
                self.traces.append(tracer.traces)

    def _plain(self, prompt: Tensor) -> None:
        extra = {"use_cache": False} if _takes(self.network, "use_cache") else {}
        self.network(input_ids=prompt.unsqueeze(0), **extra)

    def _find_layers(self) -> tuple[str, list[nn.Module]]:
        """Return the outermost list of the text's layers: of the right length, in which some layer runs on text."""
        ran: set[nn.Module] = set()
        handles = [m.register_forward_hook(lambda m, _a, _o: ran.add(m)) for m in self.network.modules()]
        with torch.no_grad():
            self._plain(self.prompts[0])
        for handle in handles:
            handle.remove()
        fitting = {
            path: list(module)
            for path, module in self.network.named_modules()
            if isinstance(module, nn.ModuleList)
            and len(module) == zoo.NUM_LAYERS
            and any(layer in ran for layer in module)
            and all(list(layer.children()) for layer in module)
        }
        outermost = {p: m for p, m in fitting.items() if not any(p.startswith(f"{q}.") for q in fitting if q != p)}
        if len(outermost) > 1:
            outermost = {p: m for p, m in outermost.items() if "decoder" in p} or outermost
        if not outermost:
            return "", []
        return next(iter(outermost.items()))

    def padded_alike(self, side: str) -> Cell:
        """See whether the network itself computes the same for a prompt in a padded batch as for the prompt alone."""
        ids, mask = padded(self.prompts, side)
        extra: dict[str, Any] = {"use_cache": False, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        extra = {name: value for name, value in extra.items() if _takes(self.network, name)}
        seen: list[Tensor] = []
        layer = next(layer for layer, trace in zip(self.layers, self.traces[0], strict=True) if trace.after is not None)
        handle = layer.register_forward_hook(lambda _m, _a, output: seen.append(hidden_output(output).clone()))
        try:
            with torch.no_grad():
                self.network(input_ids=ids, attention_mask=mask, **extra)
        finally:
            handle.remove()
        place = self.layers.index(layer)
        for row, prompt in enumerate(self.prompts):
            expected = token_rows(self.traces[row][place].after, len(prompt))
            batch = seen[0]
            if batch.ndim != 3 or batch.shape[:2] != ids.shape:
                return Cell(REFUSED, f"its hidden states have shape {tuple(batch.shape)}")
            got = batch[row][mask[row].bool()]
            if not torch.allclose(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max())):
                return Cell(REFUSED, "a prompt that is padded gives other numbers than alone")
        return Cell(RIGHT)

    def describe(self) -> list[str]:
        """Return, for each layer, how its residual path looks and what its parts are."""
        if not self.layers:
            return ["no list of layers runs on text"]
        texts = []
        for layer, trace in zip(self.layers, self.traces[0], strict=True):
            parts = ", ".join(f"{part.kind} {part.scope}" for part in reversed(trace.parts))
            shape = "" if trace.after is None or trace.after.ndim == 3 else f" shape {tuple(trace.after.shape)}"
            texts.append(f"{type(layer).__name__} {trace.path}{shape}: {parts}")
        return texts

    def compare(self, tap: str, prompt: int, layer: int, got: tuple[float, float, float], tolerance: float) -> str:
        """Return what is wrong with (count, mean, m2) of a tap, '' for nothing, 'null' for no numbers."""
        trace, rows = self.traces[prompt][layer], len(self.prompts[prompt])
        null = got[0] == 0 or got[1] != got[1]
        if trace.after is None:
            return "" if null else f"count {got[0]:g} of a layer that did not run"
        if null:
            return "" if tap in {"attention", "mlp", "mlp_hidden"} and not self._has(tap, trace) else "null"
        wanted = list(self._expected(tap, trace, rows))
        if not wanted:
            return (
                f"numbers, and nothing can be told ({trace.path})"
                if "sum" not in trace.path
                else f"numbers, and there is no {tap}"
            )
        apart = [_apart(got, values) for values in wanted]
        return "" if min(apart) <= tolerance else f"{min(apart):.2g} apart, count {got[0]:g} ({wanted[0].numel()})"

    @staticmethod
    def _has(tap: str, trace: LayerTrace) -> bool:
        kind = "mixer" if tap == "attention" else "mlp"
        return any(part.kind == kind for part in trace.parts) or not trace.parts

    def _expected(self, tap: str, trace: LayerTrace, rows: int) -> Iterator[Tensor]:
        after = token_rows(trace.after, rows, last=self.last)
        if tap == "block":
            yield after
        elif tap == "update":
            yield after - token_rows(trace.before, rows, last=self.last)
        else:
            kind = "mixer" if tap == "attention" else "mlp"
            parts = [part for part in trace.parts if part.kind == kind]
            if not parts:
                return
            if tap == "mlp_hidden":
                hidden = [h for part in parts for h in part.hidden]
                yield torch.cat([h.reshape(-1) for _, h in hidden])
                for scope in dict.fromkeys(scope for scope, _ in hidden):
                    if "expert" in scope and "shared" not in scope:
                        yield torch.cat([h.reshape(-1) for s, h in hidden if s == scope])
                return
            yield torch.stack([part.value for part in parts]).sum(0)
            if kind == "mixer":
                first = max(part.group for part in parts)
                yield torch.stack([part.value for part in parts if part.group == first]).sum(0)


def _apart(got: tuple[float, float, float], values: Tensor) -> float:
    x = values.double()
    if got[0] != x.numel():
        return float("inf")
    mean, m2 = float(x.mean()), float((x - x.mean()).square().sum())
    rms = float(x.square().mean().sqrt()) or 1.0
    return max(abs(got[1] - mean) / rms, abs(got[2] - m2) / (m2 or 1.0))


def _takes(network: nn.Module, name: str) -> bool:
    import inspect

    return name in inspect.signature(network.forward).parameters


def read_rows(file: Path) -> dict[str, Row]:
    """Return the rows of a file by type."""
    if not file.is_file():
        return {}
    rows = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        cells = {name: Cell(**cell) for name, cell in fields.pop("cells").items()}
        rows[fields["model_type"]] = Row(**fields, cells=cells)
    return rows


TABLE = Path(__file__).parents[2] / "docs" / "models.md"
TITLES = {"causal": "Causal language models", "image-text": "Images and text", "masked": "Masked language models"}
HEADER = """# Model types

Every model type that transformers {version} registers for causal, image-text and masked language modelling, built tiny
with random weights and compared with a plain forward pass of each prompt alone. `make sweep` repeats this and lists
what has changed; `make sweep-table` then writes this page from the result.

| column | what is compared |
|---|---|
| read | taps `block` and `update`, of prompts padded on the right and of prompts alone |
| left | the same of prompts padded on the left |
| attention, mlp | what the token mixer and the feed-forward part add to the residual stream |
| mlp_hidden | the hidden activation of the feed-forward part |
| prune | a model without some of its layers: in memory, skipped in the whole model, and exported and loaded plainly |
| format | the number format of the exported checkpoint |

A note at a right outcome of `prune` names the layers that are not dropped, because the model does not run without them
or its other layers compute something else.

**right**: equal. **refused**: no numbers, but one line that says why. **wrong**: other numbers. **traceback**: an error
that is no refusal. **cannot be built**: transformers cannot make or load such a model here.
"""


def table(rows: Sequence[Row]) -> str:
    """Return the page that shows the outcome of all types."""
    import transformers

    notes: dict[str, int] = {}
    parts = [HEADER.format(version=transformers.__version__), _totals_table(rows)]
    for family, title in TITLES.items():
        own = sorted((row for row in rows if row.family == family), key=lambda row: row.model_type)
        parts += [f"## {title}", f"| type | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
        parts += [
            f"| {row.model_type} | {' | '.join(_shown(row.cells[c], row, notes) for c in COLUMNS)} |" for row in own
        ]
        parts.append("")
    parts += ["## Notes", ""] + [f"[^{number}]: {note}" for note, number in notes.items()]
    return "\n".join(parts) + "\n"


def _totals_table(rows: Sequence[Row]) -> str:
    outcomes = (RIGHT, REFUSED, WRONG, TRACEBACK, UNBUILDABLE)
    lines = [f"| types | column | {' | '.join(outcomes)} |", f"|---|---|{'---|' * len(outcomes)}"]
    for family in TITLES:
        own = [row for row in rows if row.family == family]
        for column in COLUMNS:
            counts = [sum(row.cells[column].outcome == outcome for row in own) for outcome in outcomes]
            lines.append(f"| {family} | {column} | {' | '.join(map(str, counts))} |")
        lines.append(f"| {family} | all but left | {sum(_all_right(row) for row in own)} | | | | |")
        without = sum(_all_right(row, without=("left", "format")) for row in own)
        lines.append(f"| {family} | all but left and format | {without} | | | | |")
    return "\n".join(lines) + "\n"


def _all_right(row: Row, *, without: Sequence[str] = ("left",)) -> bool:
    return all(row.cells[column].outcome == RIGHT for column in COLUMNS if column not in without)


def _shown(cell: Cell, row: Row, notes: dict[str, int]) -> str:
    if cell.outcome == RIGHT and not cell.detail:
        return RIGHT
    note = _general(cell, row)
    return f"{cell.outcome}[^{notes.setdefault(note, len(notes) + 1)}]"


def _general(cell: Cell, row: Row) -> str:
    """Return the detail of a cell without what differs from type to type and from machine to machine."""
    text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(row.model_type.partition('/')[0])}(?![A-Za-z0-9])", "TYPE", cell.detail)
    text = re.sub(r"\b[A-Z]\w*(Model|Thinker|ForCausalLM|ForConditionalGeneration|Config)\b", "CLASS", text)
    text = re.sub(r"<class '[^']*'>", "its class", text)
    if cell.outcome == WRONG:
        text = re.sub(r"(-?[\d.]+(e[+-]?\d+)?|inf) apart, count -?[\d.]+(e[+-]?\d+)? \(\d+\)", "apart", text)
        text = re.sub(r"; in all:.*", "", re.sub(r" layer \d prompt \d", "", text))
        text = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?(?=( apart|$| of a layer))", "N", text)
    return f"{cell.outcome}: {text}"


def read_table_text(text: str) -> dict[str, tuple[str, ...]]:
    """Return the outcomes by type of a page that `table` wrote."""
    expected = {}
    for line in text.splitlines():
        values = [re.sub(r"\[\^\d+\]", "", value.strip()) for value in line.strip("|").split("|")]
        if len(values) == len(COLUMNS) + 1 and values[1] in {RIGHT, REFUSED, WRONG, TRACEBACK, UNBUILDABLE}:
            expected[values[0]] = tuple(values[1:])
    return expected


def read_page(text: str) -> dict[str, Row]:
    """Return the rows of a page that `table` wrote, by type, their details as the page's notes have them."""
    notes = dict(re.findall(r"^(\[\^\d+\]): [a-z ]+: (.*)$", text, re.MULTILINE))
    families = {title: family for family, title in TITLES.items()}
    rows: dict[str, Row] = {}
    family = ""
    for line in text.splitlines():
        family = families.get(line.removeprefix("## "), family)
        values = [value.strip() for value in line.strip("|").split("|")]
        if family and len(values) == len(COLUMNS) + 1 and read_table_text(line):
            pairs = [value.partition("[^") for value in values[1:]]
            cells = {c: Cell(o, notes.get(f"[^{n}", "")) for c, (o, _, n) in zip(COLUMNS, pairs, strict=True)}
            rows[values[0]] = Row(family, values[0], cells=cells)
    return rows


def changes(rows: Sequence[Row], expected: dict[str, tuple[str, ...]]) -> list[str]:
    """Return a line for each outcome that is not the expected one."""
    lines = [f"{name}: is gone" for name in expected.keys() - {row.model_type for row in rows}]
    for row in rows:
        before = expected.get(row.model_type, ("new",) * len(COLUMNS))
        for column, outcome in zip(COLUMNS, before, strict=True):
            cell = row.cells[column]
            if cell.outcome != outcome:
                lines.append(f"{row.model_type} {column}: {outcome} -> {cell.outcome} {cell.detail[:160]}")
    return lines


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
    print(_totals_table(list(rows.values())))
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
