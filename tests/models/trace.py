"""What each part of a layer adds to the residual stream, found by tracing tensor operations of a plain forward pass.

Nothing here knows the package's anatomy. Operations are recorded from a layer's input to its output. The residual path
leads from the output back to the input through additions, views, normalisations and constant factors alone; what is
added along it are the layer's parts. The module in which a part was computed says of which kind it is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MATMULS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "convolution", "_addmm_activation", "addmv", "mv")
VIEWS = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "transpose", "permute", "t", "unsqueeze", "squeeze"),
    *("expand", "alias", "detach", "clone", "_to_copy", "to", "contiguous", "slice", "lift_fresh", "native_dropout"),
    *("copy_", "select", "split", "split_with_sizes", "unbind", "constant_pad_nd", "movedim", "flatten", "_copy"),
}
SUMS = {"add", "add_", "sub", "sub_", "rsub"}
FACTORS = {"mul", "mul_", "div", "div_"}
GATHERS = {
    "index",
    "index_add",
    "index_add_",
    "index_put",
    "index_put_",
    "index_copy_",
    "sum",
    "cat",
    "stack",
    "scatter",
}
GATHERS |= {
    "where",
    "masked_fill",
    "masked_fill_",
    "index_select",
    "gather",
    "scatter_add_",
    "repeat_interleave",
    "mean",
}
NORM, INPUT = "norm", "input"
NORMALISATION = re.compile(r"norm(gated|\d?d)?$", re.IGNORECASE)
MIXER = re.compile(
    r"attn|attention|mixer|mamba|ssm|conv|delta|recurrent|rglru|lstm|temporal|retention|timemix|memory|rwkv|fourier",
    re.IGNORECASE,
)
MLP = re.compile(
    r"mlp|ffn|feed|forward|moe|expert|fc\d|dense|output|intermediate|channel|^ff|sparse|^w\d|linear", re.IGNORECASE
)


@dataclass(eq=False)
class Node:
    """A tensor that depends on the layer's input."""

    op: str
    inputs: list["Node"]
    scope: tuple[str, ...]
    """Names of the modules, from the network's outermost, that were running."""
    value: Tensor
    others: list[Any] = field(default_factory=list)
    """Operands that do not depend on the input."""


@dataclass
class Part:
    """What one part of a layer adds to the stream."""

    kind: str
    """'mixer', 'mlp' or 'other'."""
    group: int
    """Number of the addition, counted from the output."""
    scope: str
    value: Tensor
    """Shape (S, D)."""
    hidden: list[tuple[str, Tensor]]
    """Inputs of the last matrix products on the way to it, with the module each of them ran in."""


@dataclass
class LayerTrace:
    """What was found in one layer during one pass."""

    before: Tensor | None = None
    after: Tensor | None = None
    parts: list[Part] = field(default_factory=list)
    plain: bool = False
    """The parts add up to output - input."""
    path: str = "the layer did not run"
    """How the residual path looks: 'sum', 'norm', 'factor', or why there is none."""


class Tracer(TorchDispatchMode):
    """Records the operations of a forward pass between each layer's input and output.

    Args:
        network: the network.
        layers: its layers.
        rows: tokens of the prompt, which runs alone.
        last: the network puts tokens of its own before the prompt's.
    """

    def __init__(self, network: nn.Module, layers: Sequence[nn.Module], rows: int, *, last: bool = False) -> None:
        super().__init__()
        self._last = last
        self.network, self.layers, self.rows = network, list(layers), rows
        self.traces = [LayerTrace() for _ in self.layers]
        self.names = {module: name for name, module in network.named_modules()}
        self._nodes: dict[int, Node] = {}
        self._storages: dict[int, list[Tensor]] = {}
        self._alive: list[Any] = []
        self._stack: list[str] = [""]
        self._handles: list[Any] = []
        self._start: Node | None = None
        self._current: int | None = None
        self._before: Tensor | None = None

    def __enter__(self) -> "Tracer":
        index = {layer: i for i, layer in enumerate(self.layers)}
        for name, module in self.network.named_modules():
            self._handles.append(
                module.register_forward_pre_hook(self._push(name, index.get(module)), with_kwargs=True, prepend=True)
            )
            self._handles.append(
                module.register_forward_hook(
                    self._pop(module, name, index.get(module)), with_kwargs=True, always_call=True
                )
            )
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()
        self._nodes.clear()
        self._alive.clear()
        self._storages.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._start is None:
            return func(*args, **kwargs)
        name = func._schema.name.split("::")[-1]
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        nodes = [self._nodes[id(x)] for x in operands if id(x) in self._nodes]
        mutable = func._schema.is_mutable
        if mutable:
            for tensor in self._sharing(operands[0]):
                node = self._nodes.get(id(tensor))
                if node is not None and node.value is tensor:
                    node.value = tensor.clone()
        others = [x for x in tree_leaves((args, kwargs)) if not (isinstance(x, Tensor) and id(x) in self._nodes)]
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            self._remember(tensor)
            if nodes:
                self._nodes[id(tensor)] = Node(name, nodes, tuple(self._stack), tensor, others)
                if mutable:
                    for view in self._sharing(tensor):
                        if view is not tensor:
                            old = self._nodes.get(id(view))
                            inputs = [*nodes, old] if old is not None and old not in nodes else nodes
                            self._nodes[id(view)] = Node(name, inputs, tuple(self._stack), view, others)
        return result

    def _sharing(self, tensor: Tensor) -> list[Tensor]:
        return self._storages.get(_storage(tensor), [tensor])

    def _remember(self, tensor: Tensor) -> None:
        self._alive.append(tensor)
        known = self._storages.setdefault(_storage(tensor), [])
        if not any(x is tensor for x in known):
            known.append(tensor)

    def _push(self, name: str, layer: int | None) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._stack.append(name)
            if layer is not None and self._current is None:
                hidden = hidden_input(args, kwargs)
                self._nodes.clear()
                self._storages.clear()
                self._alive.clear()
                self._remember(hidden)
                self._start = Node(INPUT, [], tuple(self._stack), hidden)
                self._nodes[id(hidden)] = self._start
                self._current, self._before = layer, hidden
                self.traces[layer].before = hidden.clone()

        return hook

    def _pop(self, module: nn.Module, name: str, layer: int | None) -> Any:
        is_norm = bool(NORMALISATION.search(type(module).__name__))

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            while self._stack and self._stack.pop() != name:
                pass
            alone = isinstance(output, tuple) and not any(isinstance(x, Tensor) for x in output[1:])
            normalised = output[0] if alone else output
            if is_norm and self._start is not None and isinstance(normalised, Tensor):
                first = next((x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)), None)
                if first is not None and id(first) in self._nodes and first is not normalised:
                    node = Node(NORM, [self._nodes[id(first)]], (*self._stack, name), normalised)
                    self._nodes[id(normalised)] = node
            if layer is not None and layer == self._current:
                self._finish(layer, output)

        return hook

    def _finish(self, layer: int, output: Any) -> None:
        start, self._start, self._current = self._start, None, None
        trace = self.traces[layer]
        if output is None:
            return
        after = hidden_output(output)
        trace.after = after.clone()
        node = self._nodes.get(id(after))
        if node is None or start is None:
            trace.path = "the output does not depend on the input"
            return
        where = self.names[self.layers[layer]]
        try:
            self._decompose(trace, node, start, where)
        except RecursionError:
            trace.path = "the residual path is too long"

    def _decompose(self, trace: LayerTrace, out: Node, start: Node, where: str) -> None:
        carries = _Carries(start)
        if not carries(out):
            trace.path = "no residual path"
            return
        kinds, group, node = {"sum"}, 0, out
        while node is not start:
            carrying = [n for n in node.inputs if carries(n)]
            if node.op in SUMS and len(node.inputs) == 2:
                if len(carrying) == 2 and carrying[0] is not carrying[1]:
                    # The stream is the operand that leads to the input by the fewest additions and factors.
                    carrying.sort(key=carries.cost)
                rest = [n for n in node.inputs if n is not carrying[0]]
                for added in rest:
                    scale = _alpha(node) * (-1.0 if node.op.startswith(("sub", "rsub")) else 1.0)
                    trace.parts += list(self._parts(added, scale, group, where))
                group += 1
            elif node.op in SUMS:
                kinds.add("constant")
                value = next((x for x in node.others if isinstance(x, Tensor)), None)
                if value is not None and value.ndim:
                    trace.parts.append(Part("other", group, "constant", self._rows(value.expand_as(node.value)), []))
                group += 1
            elif node.op == NORM:
                kinds.add("norm")
            elif node.op in FACTORS:
                kinds.add("factor")
            node = carrying[0]
        kinds -= {"sum"} if len(kinds) > 1 else set()
        trace.path = "+".join(sorted(kinds))
        assert trace.before is not None
        assert trace.after is not None
        if trace.path in {"sum", "constant"}:
            update = self._rows(trace.after).double() - self._rows(trace.before).double()
            total = sum((part.value.double() for part in trace.parts), torch.zeros_like(update))
            trace.plain = bool(torch.linalg.vector_norm(update - total) <= 1e-4 * torch.linalg.vector_norm(update))
            if not trace.plain:
                trace.path = "the parts do not add up"

    def _parts(self, node: Node, scale: float, group: int, where: str) -> Iterator[Part]:
        inner = _through_views(node)
        if inner.op in SUMS and inner.scope[-1] == where and len(inner.inputs) == 2:
            first, second = inner.inputs
            sign = -1.0 if inner.op.startswith("sub") else 1.0
            yield from self._parts(first, scale, group, where)
            yield from self._parts(second, scale * sign * _alpha(inner), group, where)
            return
        sources = list(_last_products(node))
        scopes = [product.scope for product in sources] or [node.scope]
        kinds = [self._kind(scope, where) for scope in scopes]
        kind = next((k for k in ("mixer", "mlp", "other") if k in kinds), "other") if len(set(kinds)) > 1 else kinds[0]
        if "mlp" in kinds and "mixer" in kinds:
            kind = kinds[0]
        if kind != "other" and node.scope[-1] != where and (own := self._kind(node.scope, where)) != "other":
            kind = own  # an expert may pass on what attention has put out
        hidden = []
        if kind == "mlp":
            last = dict.fromkeys(p for source in sources for p in _behind_nonlinearity(source))
            hidden = [(p.scope[-1], self._of_prompt(_operand(p).value.clone())) for p in last]
        value = self._rows(node.value) * scale
        yield Part(kind, group, _relative(scopes[0][-1], where), value.clone(), hidden)

    def _rows(self, hidden: Tensor) -> Tensor:
        return token_rows(hidden, self.rows, last=self._last)

    def _of_prompt(self, hidden: Tensor) -> Tensor:
        """Leave out the tokens that the network itself has added."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        assert self._before is not None
        total = self._before.numel() // self._before.shape[-1]
        if total > self.rows and len(flat) == total and self._before.shape[1] == total:
            return flat[-self.rows :] if self._last else flat[: self.rows]
        return hidden

    def _kind(self, scope: tuple[str, ...], where: str) -> str:
        relative = [name for name in scope if name.startswith(f"{where}.")]
        layer_class = type(self.network.get_submodule(where)).__name__
        if any("adapter_modules" in name for name in relative):
            return "other"
        for name in dict.fromkeys(relative):
            own = type(self.network.get_submodule(name)).__name__
            common = 0
            for a, b in zip(own, layer_class, strict=False):
                if a != b:
                    break
                common += 1
            label, leaf = own[common:], name.rpartition(".")[2]
            if leaf.isdigit():  # a list of parts has the name of the part
                leaf = name.split(".")[-2]
            texts = [leaf] if label in {"Linear", "Conv1D"} else [label, leaf]
            kinds = ["mlp"] if leaf.startswith(("mlp", "ffn", "feed_forward")) else []
            kinds += [kind for text in texts for kind, names in (("mixer", MIXER), ("mlp", MLP)) if names.search(text)]
            if kinds:
                return kinds[0]
        return "other"


class _Carries:
    """Whether a tensor carries the stream: it leads back to the input by additions, views, norms and factors."""

    def __init__(self, start: Node) -> None:
        self._known: dict[int, float | None] = {id(start): 0.0}

    def __call__(self, node: Node) -> bool:
        return self._cost(node) is not None

    def cost(self, node: Node) -> float:
        cost = self._cost(node)
        return float("inf") if cost is None else cost

    def _cost(self, node: Node) -> float | None:
        if id(node) not in self._known:
            self._known[id(node)] = None
            inner = [cost for n in dict.fromkeys(node.inputs) if (cost := self._cost(n)) is not None]
            passes = node.op in VIEWS | SUMS | {NORM} or (node.op in FACTORS and len(set(node.inputs)) == 1)
            if passes and inner:
                self._known[id(node)] = min(inner) + (
                    10.0 if node.op in FACTORS | {NORM} else 0.0 if node.op in SUMS else 0.01
                )
        return self._known[id(node)]


def _through_views(node: Node) -> Node:
    while node.op in VIEWS and len(node.inputs) == 1:
        node = node.inputs[0]
    return node


def _is_product(node: Node) -> bool:
    if node.op == "convolution" and node.others and node.others[-1] != 1:
        return False  # a convolution of each channel alone lets everything through
    return node.op in MATMULS or "grouped_mm" in node.op or node.op == "einsum"


def _last_products(node: Node, *, gated: bool = True) -> Iterator[Node]:
    """Yield the matrix products that a part is a linear function of.

    Args:
        node: the part.
        gated: pass through a product of two activations, element by element.
    """
    seen: set[int] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if _is_product(current):
            yield current
        elif not gated and current.op in FACTORS and sum(n.value.shape[-1:] != (1,) for n in current.inputs) > 1:
            continue
        elif not gated and current.op in SUMS and not all(any(_last_products(n, gated=False)) for n in current.inputs):
            continue  # a sum with a non-linear term, as in xIELU
        elif current.op in VIEWS | SUMS | FACTORS | GATHERS | {NORM, "convolution"}:
            waiting.extend(current.inputs)


def _behind_nonlinearity(product: Node) -> Iterator[Node]:
    """Yield the product itself, or those before it where no non-linearity stands between."""
    earlier = list(_last_products(_operand(product), gated=False))
    if not earlier:
        yield product
    for other in earlier:
        yield from _behind_nonlinearity(other)


def _operand(product: Node) -> Node:
    """Return the operand of a product that depends on the layer's input."""
    return product.inputs[0] if product.op not in {"addmm", "baddbmm"} else product.inputs[-1]


def _alpha(node: Node) -> float:
    numbers = [x for x in node.others if isinstance(x, int | float) and not isinstance(x, bool)]
    return float(numbers[-1]) if numbers and len(node.inputs) == 2 else 1.0


def _relative(name: str, where: str) -> str:
    return name.removeprefix(f"{where}.") or "(layer)"


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def token_rows(hidden: Tensor, rows: int, *, last: bool = False) -> Tensor:
    """Return the hidden states of a prompt that ran alone as (S, width), wherever its axis of tokens is.

    Padding that a model adds by itself on the right is cut off, or what it puts before the prompt where the prompt is
    the last; streams side by side are one wide token.
    """
    if hidden.ndim == 2 and hidden.shape[0] == rows:
        return hidden
    axes = [axis for axis in range(hidden.ndim - 1) if hidden.shape[axis] == rows]
    if not axes:
        axes = [axis for axis in range(hidden.ndim - 1) if hidden.shape[axis] > rows]
        if not axes:
            raise ValueError(f"no axis of {tuple(hidden.shape)} holds {rows} tokens")
    moved = hidden.movedim(axes[-1], 0)
    moved = moved[-rows:] if last else moved[:rows]
    return moved.reshape(rows, -1)


def hidden_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states that a layer was called with."""
    for value in (*args[:1], kwargs.get("hidden_states"), *args, *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
            return value
    raise ValueError("the layer was called without hidden states")


def hidden_output(output: Any) -> Tensor:
    """Return the hidden states among a layer's outputs."""
    value = next(
        (x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 2), None
    )
    if value is None:
        raise ValueError("the layer returned no hidden states")
    return value
