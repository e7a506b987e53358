"""What each block adds to the residual stream, determined on the model itself.

A trial pass records the output of every module of a block. The block's output is then traced back to its input: at each
point of the stream, the terms are the modules whose outputs, multiplied by constants, make up the difference from an
earlier point. Points of the stream are the block's input, and the inputs and outputs of normalisations. A term is what
the token mixer adds, what the feed-forward part adds, or something else that the block adds. The outcome depends on the
model alone, because the tokens of the trial are always the same.

Everything is compared token by token. Models emit activations on single tokens that are larger by orders of magnitude
than all others; over all tokens together, such a token would hide what the block adds to the others.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from stratoscope.activations.reading import UNKNOWN, BlockReading, Term
from stratoscope.activations.tap import Tap
from stratoscope.models import Block
from stratoscope.models.anatomy import is_linear, is_norm, part_kind

TOLERANCE = 1e-4
"""Largest relative difference at a token between what is added to the stream and the sum of the terms, in float32."""
PARALLEL = 1e-5
"""Largest relative difference at a token between tensors that are multiples of each other."""
LEAST_FACTOR = 1e-2
"""Smallest constant, in size, by which a block multiplies the output of a part that it adds."""
MOST_TERMS = 3
"""Largest number of terms that are added at one point of the stream."""
MOST_CANDIDATES = 40
"""Largest number of modules among which sums of several terms are searched."""
KINDS = {"mixer": Tap.ATTENTION, "mlp": Tap.MLP}


@dataclass(eq=False)
class Call:
    """One call of a module in a block during the trial."""

    module: nn.Module
    path: str
    """Name of the module inside the block."""
    order: int
    output: Tensor
    """Output as the module returned it."""
    copy: Tensor
    """Copy of the output from that moment."""
    entering: Tensor | None
    """Copy of the first input, if it is as large as the stream."""
    is_norm: bool
    """Whether the module normalises."""
    is_single: bool = True
    """Whether the module ran once."""

    @property
    def overwritten(self) -> bool:
        """Whether the block has written into the output since."""
        return not torch.equal(self.output.nan_to_num(), self.copy.nan_to_num())


@dataclass(frozen=True, eq=False)
class _TrackedTensor:
    """A tensor of the residual stream, shape (T, D), in float64."""

    value: Tensor
    order: float
    """Number of the module call that it was seen at."""
    scaled: "_TrackedTensor | None" = None
    """Tensor that this one is a multiple of, element by element."""


@dataclass(frozen=True)
class _Path:
    """Terms along a residual path, as (call, factor), and whether the stream itself passes unchanged."""

    terms: tuple[tuple["_Candidate", float], ...] = ()
    plain: bool = True


@dataclass(frozen=True, eq=False)
class FreeVector:
    """A parameter of a block that is as wide as the stream and belongs to no linear map or normalisation."""

    value: Tensor
    path: str
    """Name of the module that holds it, inside the block."""


@dataclass(eq=False)
class _Candidate:
    """Calls whose outputs differ only by a constant factor, or a vector that is a parameter."""

    calls: list[Call]
    values: list[Tensor]
    """Output of each call, shape (T, D), in float64; or the vector at each token."""
    vector: FreeVector | None = None

    def choose(self, coefficient: float) -> tuple[Call, float]:
        """Return the call whose output is added unscaled, or else the outermost call, and its factor."""
        factors = [coefficient * _multiple(value, self.values[0]) for value in self.values]
        pairs = [(call, _rounded(factor)) for call, factor in zip(self.calls, factors, strict=True)]
        exact = [pair for pair in pairs if pair[1] == 1.0]
        return min(exact or pairs, key=lambda pair: (pair[0].path.count("."), pair[0].order))


@dataclass
class Decomposition:
    """Explains what one block adds to the stream, from the calls of its modules.

    Args:
        block: the block.
        before: its input, a copy, shape (B, S, ...).
        after: its output.
        calls: of modules whose outputs are as large as the stream, in order.
        resolution: rounding of the tensors' number format.
        vectors: parameters that the block may add to the stream or multiply it by.
    """

    block: Block
    before: Tensor
    after: Tensor
    calls: Sequence[Call]
    resolution: float
    vectors: Sequence[FreeVector] = ()
    _candidates: list[_Candidate] = field(default_factory=list)
    _points: list[_TrackedTensor] = field(default_factory=list)

    def reading(self) -> BlockReading:
        """Return how the block is read."""
        self._start = _TrackedTensor(self._by_token(self.before), -1)
        self._group()
        end = _TrackedTensor(self._by_token(self.after), float("inf"))
        path = self._explain(end, depth=0)
        if path is None:
            return UNKNOWN
        terms = self._terms(path)
        if terms is None:
            return UNKNOWN
        hidden, experts = self._hidden(terms)
        return BlockReading(True, terms, path.plain, hidden, experts)

    def _group(self) -> None:
        """Group the calls whose outputs are multiples of each other, and collect the points of the stream."""
        for call in self.calls:
            value = self._by_token(call.copy)
            if call.is_norm and call.entering is not None:
                self._points.append(_TrackedTensor(self._by_token(call.entering), call.order - 0.5))
            norm = torch.linalg.vector_norm(value)
            if not norm.isfinite() or norm == 0 or not call.is_single:
                continue
            for candidate in self._candidates:
                if _parallel(candidate.values[0], value, 1e-6):
                    candidate.calls.append(call)
                    candidate.values.append(value)
                    break
            else:
                self._candidates.append(_Candidate([call], [value]))
        inputs = [self._start, *self._points]
        outputs = [_TrackedTensor(self._by_token(call.copy), call.order) for call in self.calls if call.is_norm]
        self._points = [*sorted(inputs, key=lambda p: -p.order), *reversed(outputs)]
        wide = [self._by_token(vector.value.expand_as(self.before)) for vector in self.vectors]
        self._candidates += [_Candidate([], [w], v) for w, v in zip(wide, self.vectors, strict=True) if w.any()]
        self._points += [_TrackedTensor(p.value * w, p.order, p) for w in wide for p in inputs]

    def _explain(self, target: _TrackedTensor, depth: int) -> _Path | None:
        """Return the terms between the block's input and a point of the stream; None if there is no such path."""
        if self._equal(target.value, self._start.value):
            return _Path()
        if depth > 8:
            return None
        for entering in self._before_norms(target):
            path = self._explain(entering, depth + 1)
            if path is not None:
                return replace(path, plain=False)
        for free, size in [(False, n) for n in range(1, MOST_TERMS + 1)] + [(True, 1), (True, 2)]:
            for point in self._points:
                if point.order >= target.order:
                    continue
                for scale, terms in self._sums(target, point, size, free=free):
                    path = self._explain(point.scaled or point, depth + 1)
                    if path is not None and not _shared(path.terms, terms):
                        plain = path.plain and scale == 1.0 and point.scaled is None
                        return _Path((*path.terms, *terms), plain)
        return None

    def _before_norms(self, target: _TrackedTensor) -> Iterator[_TrackedTensor]:
        """Yield the inputs of normalisations whose output is a point of the stream."""
        for call in reversed(self.calls):
            earlier = call.is_norm and call.entering is not None and call.order <= target.order
            if earlier and self._equal(self._by_token(call.copy), target.value):
                assert call.entering is not None
                yield _TrackedTensor(self._by_token(call.entering), call.order - 0.5)

    def _sums(
        self, target: _TrackedTensor, point: _TrackedTensor, size: int, *, free: bool
    ) -> Iterator[tuple[float, tuple[tuple[_Candidate, float], ...]]]:
        """Yield what can be added to a point of the stream to reach another: the point's factor, and terms."""
        # A module that passes the stream on adds nothing to it.
        passed = [value for value in (target.value, point.value, self._start.value) if value.any()]
        candidates = [c for c in self._candidates if not any(_parallel(c.values[0], value) for value in passed)]
        if not candidates or (size > 1 and len(candidates) > MOST_CANDIDATES):
            return
        rest = target.value if free else target.value - point.value
        allowed = self._allowed(target.value, point.value)
        if (_norms(rest) <= 2 * allowed).all():
            return
        # In units of the largest error that is allowed at each token, every token counts alike.
        unit = allowed.clamp(min=1e-12 * float(allowed.max()))
        values, rest = [candidate.values[0] / unit for candidate in candidates], rest / unit
        scaled = point.value / unit if free else None
        for chosen in _promising(values, rest, scaled, size):
            columns = [values[i].flatten() for i in chosen] + ([scaled.flatten()] if scaled is not None else [])
            matrix = torch.stack(columns, dim=1)
            solution = torch.linalg.lstsq(matrix, rest.reshape(-1, 1)).solution.squeeze(1)
            if not torch.linalg.vector_norm(rest.flatten() - matrix @ solution) <= len(rest) ** 0.5:
                continue
            coefficients = [float(c) for c in solution]
            scale = coefficients.pop() if free else 1.0
            if min(map(abs, coefficients)) < 1e-6 or abs(scale) < 1e-3:
                continue
            # If a block scales its whole output, the terms are taken before the scaling.
            if free and target.order == float("inf") and all(abs(c / scale - 1) < 1e-3 for c in coefficients):
                coefficients = [c / scale for c in coefficients]
            yield scale, tuple((candidates[i], c) for i, c in zip(chosen, coefficients, strict=True))

    def _allowed(self, target: Tensor, point: Tensor) -> Tensor:
        """Return the largest error at each token of a sum that leads from a point of the stream to another, (T, 1)."""
        return TOLERANCE * _norms(target - point) + 2 * self.resolution * _norms(target)

    def _is_negligible(self, output: Tensor) -> bool:
        """Return whether a block's output is within tolerance the same with and without the output of a part."""
        allowed = self._allowed(self._by_token(self.after), self._start.value).clamp(min=1e-300)
        size = LEAST_FACTOR * torch.linalg.vector_norm(_norms(output) / allowed)
        return bool(size <= len(output) ** 0.5)

    def _equal(self, a: Tensor, b: Tensor) -> bool:
        return bool((_norms(a - b) <= 2 * self.resolution * _norms(b)).all())

    def _by_token(self, tensor: Tensor) -> Tensor:
        """Return a tensor that is as large as the stream as (T, D), on the host in float64."""
        return tensor.detach().reshape(self.before.shape[:2].numel(), -1).to("cpu", torch.float64)

    def _terms(self, path: _Path) -> tuple[Term, ...] | None:
        """Return the terms of a path, with each vector in the term of its part.

        None if a vector has no such term, or if the output of a part is too small to show whether it is added.
        """
        terms = []
        for candidate, coefficient in path.terms:
            if candidate.calls:
                call, factor = candidate.choose(coefficient)
                terms.append(Term(call.module, self._tap(call), factor, call.overwritten))
        for vector, coefficient in ((c.vector, factor) for c, factor in path.terms if c.vector is not None):
            kind = part_kind(self.block.module, vector.path)
            places = [i for i, term in enumerate(terms) if kind and term.tap == KINDS[kind] and term.bias is None]
            if not places:
                return None
            terms[places[0]] = replace(terms[places[0]], bias=_rounded(coefficient) * vector.value.detach())
        for part, tap in ((self.block.attention, Tap.ATTENTION), (self.block.mlp, Tap.MLP)):
            outputs = [self._by_token(call.copy) for call in self.calls if call.module is part]
            if part is None or any(term.tap == tap for term in terms):
                continue
            if not all(output.any() for output in outputs):
                # A part whose output is zero on the trial's tokens adds to the stream as well.
                terms.append(Term(part, tap))
            elif any(map(self._is_negligible, outputs)):
                return None
        return tuple(terms)

    def _tap(self, call: Call) -> Tap | None:
        kind = part_kind(self.block.module, call.path)
        if kind is None and call.is_norm:
            taps = {self._tap(source) for source in self._sources(call)}
            return taps.pop() if len(taps) == 1 else None
        return KINDS[kind] if kind else None

    def _sources(self, call: Call) -> Sequence[Call]:
        """Return the call whose output is the input of another call, or the calls whose sum is its input."""
        source = self._source(call)
        if source is not None or call.entering is None:
            return [source] if source is not None else []
        entering = _TrackedTensor(self._by_token(call.entering), call.order)
        zero = _TrackedTensor(torch.zeros_like(entering.value), -1)
        for _, terms in self._sums(entering, zero, 2, free=False):
            return [candidate.calls[0] for candidate, _ in terms if candidate.calls]
        return []

    def _source(self, call: Call) -> Call | None:
        """Return the outermost call whose output is the input of another call."""
        if call.entering is None:
            return None
        entering = self._by_token(call.entering)
        sources = [c for c in self.calls if c.order < call.order and self._equal(self._by_token(c.copy), entering)]
        return min(sources, key=lambda c: (c.path.count("."), c.order), default=None)

    def _hidden(self, terms: Sequence[Term]) -> tuple[nn.Module | None, nn.Module | None]:
        """Return the linear map that ends the feed-forward part, or the module with its experts."""
        added = [term for term in terms if term.tap == Tap.MLP]
        if not added:
            return None, None
        experts = self.block.experts
        if experts is not None:
            return None, experts if self.block.shows_experts else None
        lists = [child for child in self.block.module.children() if isinstance(child, nn.ModuleList)]
        if len(added) > 1 or any(is_linear(module) for child in lists for module in child.modules()):
            # Several feed-forward networks have no hidden activation in common.
            return None, None
        call: Call | None = next(call for call in self.calls if call.module is added[0].module)
        for _ in range(3):
            if call is None:
                break
            value = self._by_token(call.copy)
            for other in reversed(self.calls):
                is_own = is_linear(other.module) and self._tap(other) == Tap.MLP
                if is_own and _parallel(self._by_token(other.copy), value):
                    return other.module, None
            gated = self._gated(value)
            if gated is not None:
                return gated, None
            call = self._source(call)
        return None, None

    def _gated(self, value: Tensor) -> nn.Module | None:
        """Return the linear map whose output, times the sigmoid of another's, is parallel to a tensor, as in RWKV."""
        linear = [c for c in self.calls if is_linear(c.module) and c.is_single and self._tap(c) == Tap.MLP]
        for call, gate in itertools.permutations(linear, 2):
            if _parallel(self._by_token(call.copy) * torch.sigmoid(self._by_token(gate.copy)), value):
                return call.module
        return None


def free_vectors(layer: nn.Module, width: int) -> list[FreeVector]:
    """Return the parameters that a block may add to the stream, or multiply the stream by, without a linear map."""
    found = []
    for path, module in layer.named_modules():
        if not is_linear(module) and not is_norm(module, layer):
            own = module.named_parameters(recurse=False)
            found += [FreeVector(value, path) for _, value in own if value.shape == (width,)]
    return found


def _promising(values: Sequence[Tensor], rest: Tensor, point: Tensor | None, size: int) -> list[tuple[int, ...]]:
    """Return sets of tensors that may span another, best first, from their inner products alone."""
    columns = torch.stack([value.flatten() for value in values])
    columns = columns / torch.linalg.vector_norm(columns, dim=1, keepdim=True)
    sets = torch.tensor(list(itertools.combinations(range(len(values)), size)), dtype=torch.long).view(-1, size)
    if point is not None:
        columns = torch.cat([columns, (point / torch.linalg.vector_norm(point)).view(1, -1)])
        sets = torch.cat([sets, torch.full((len(sets), 1), len(values))], dim=1)
    gram, along = columns @ columns.T, columns @ rest.flatten()
    inner = gram[sets.unsqueeze(2), sets.unsqueeze(1)] + 1e-12 * torch.eye(sets.shape[1])
    right = along[sets]
    solved = torch.linalg.solve(inner, right.unsqueeze(2)).squeeze(2)
    missing = 1 - (solved * right).sum(dim=1) / rest.square().sum()
    best = missing.argsort()[:4]
    return [tuple(sets[i, :size].tolist()) for i in best if missing[i] < 1e-2]


def _shared(a: Sequence[tuple[_Candidate, float]], b: Sequence[tuple[_Candidate, float]]) -> bool:
    return bool({id(candidate) for candidate, _ in a} & {id(candidate) for candidate, _ in b})


def _parallel(a: Tensor, b: Tensor, tolerance: float = PARALLEL) -> bool:
    """Return whether b is a multiple of a, the same one at every token; both have shape (T, D)."""
    unit = _norms(b).clamp(min=1e-300)
    a, b = a / unit, b / unit
    return bool(torch.linalg.vector_norm(b - _multiple(a, b) * a) <= tolerance * torch.linalg.vector_norm(b))


def _multiple(a: Tensor, b: Tensor) -> float:
    """Return the factor that takes a closest to b."""
    return float((a * b).sum() / a.square().sum().clamp(min=1e-300))


def _norms(tensor: Tensor) -> Tensor:
    """Return the norm of each token of (T, D), shape (T, 1)."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=1, keepdim=True)
    return norms


def _rounded(factor: float) -> float:
    """Round an estimated factor, so that it is the same number on every device."""
    return 1.0 if abs(factor - 1) < 2e-5 else float(f"{factor:.6g}")
