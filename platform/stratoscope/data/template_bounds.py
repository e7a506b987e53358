"""Jinja templates in bounded time and memory: loops, calls and growing text are counted, and stopped at a limit."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import SandboxedEnvironment

MAX_SECONDS = 5.0
"""Longest time in which a row is rendered."""
MAX_SIZE = 1_000_000
"""Maximum number of characters or elements of a value that a template computes, and of characters that it prints."""
MAX_BITS = 10_000
"""Maximum size of a whole number that a template computes."""
BINARY = frozenset(("+", "*", "**", "%"))
"""Operators whose result may be far larger than their operands."""
REFUSED = frozenset(("translate", "maketrans", "expandtabs", "format_map"))
"""Methods of text that may multiply its length, and that no prompt needs."""
WIDTH = re.compile(r"\d{6,}|\*|\{[^{}]*\{")
"""Parts of a format that may widen a value without limit."""


class TemplateBoundError(TemplateError):
    """A template computes for too long, or something too large."""


class BoundedEnvironment(SandboxedEnvironment):
    """A sandboxed environment that stops a template after `MAX_SECONDS`, or once something exceeds `MAX_SIZE`.

    Iterations, calls, filters, tests and printed values are counted. Text and lists are measured before they are made.

    Args:
        finalize: called with each printed value; returns what is printed.
        **options: further options of Jinja's `Environment`.
    """

    intercepted_binops = BINARY

    def __init__(self, finalize: Callable[[Any], Any] = lambda value: value, **options: Any) -> None:
        super().__init__(finalize=lambda value: self._print(finalize(value)), **options)
        self.start()
        self.globals.pop("lipsum", None)
        filters: dict[str, Any] = self.filters
        self.filters = {name: self._bounded(name, filter_) for name, filter_ in filters.items()}
        tests: dict[str, Any] = self.tests
        self.tests = {name: self._bounded(name, test) for name, test in tests.items()}
        self.filters |= {"_bounded_loop": self._loop, "_bounded_text": self._joined}

    def start(self) -> None:
        """Reset the counts before a template or a row."""
        self._deadline = time.monotonic() + MAX_SECONDS
        self._printed = 0

    def render(self, template: Template, row: Mapping[str, Any]) -> str:
        """Return a row as text.

        Raises:
            TemplateBoundError: the template exceeds a limit.
            Exception: the template does not fit the row.
        """
        self.start()
        parts = []
        for part in template.generate(row):
            self._count(len(part))
            parts.append(part)
        return "".join(parts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template, and wrap what its loops iterate over and the operator `~` in filters."""
        tree = super()._parse(source, name, filename)
        self._text_length = len(source)
        for loop in tree.find_all(nodes.For):
            static = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
            loop.iter = _filtered("_bounded_loop", loop.iter, [nodes.Const(static)])  # type: ignore[arg-type]
        for parent in [tree, *tree.find_all(nodes.Node)]:
            _replace_concatenations(parent)
        return tree

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as Jinja has it
        """Call a macro, method or function."""
        # A macro may print the text of the template, which is not counted elsewhere.
        __self._count(__self._text_length)
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps the method `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str | list):
            _check_growth(name, owner, args, kwargs)
        return _checked(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator."""
        self._count(0)
        _check_operands(operator, left, right)
        return _checked(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may use an attribute."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in REFUSED)

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter or test that is counted, and whose arguments and result are measured."""
        passed = hasattr(function, "jinja_pass_arg")  # the first argument is then the context or the environment

        @wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._count(0)
            value, *others = args[passed:]
            _check_growth(name, value, others, kwargs)
            return _checked(function(*args, **kwargs))

        return bounded

    def _loop(self, values: Any, static: int) -> Any:
        """Return what a loop iterates over, so that each iteration is counted."""
        if isinstance(values, Undefined):
            return values
        return _CountedValues(values, lambda: self._count(static))

    def _joined(self, values: Iterable[Any]) -> str:
        """Return the text of the operator `~`."""
        texts = [str(value) for value in values]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def _print(self, value: Any) -> Any:
        self._count(len(value) if isinstance(value, str) else 0)
        return value

    def _count(self, characters: int) -> None:
        """Count a step and the characters that it may print.

        Raises:
            TemplateBoundError: the row takes too long, or too much is printed.
        """
        self._printed += characters
        if self._printed > 10 * MAX_SIZE:
            raise TemplateBoundError(f"it prints or repeats more than {10 * MAX_SIZE:,} characters for one row")
        if time.monotonic() > self._deadline:
            raise TemplateBoundError(f"it takes more than {MAX_SECONDS:g} s for one row; does it end?")


class _CountedValues:
    """Values of a loop, counted as they are read. `len` works if it works for the original values."""

    def __init__(self, values: Any, count: Callable[[], None]) -> None:
        self._values, self._count = values, count

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._count()
            yield value

    def __len__(self) -> int:
        return len(self._values)


def _filtered(name: str, value: nodes.Expr, arguments: list[nodes.Expr]) -> nodes.Filter:
    """Return the node of a filter that is applied to a value."""
    return nodes.Filter(value, name, arguments, [], None, None, lineno=value.lineno)


def _replace_concatenations(parent: nodes.Node) -> None:
    """Replace the operator `~` among the children of a node by a filter."""
    for field, value in parent.iter_fields():
        if isinstance(value, nodes.Concat):
            setattr(parent, field, _as_filter(value))
        elif isinstance(value, list):
            value[:] = [_as_filter(item) if isinstance(item, nodes.Concat) else item for item in value]


def _as_filter(concatenation: nodes.Concat) -> nodes.Filter:
    parts = nodes.List(concatenation.nodes, lineno=concatenation.lineno)
    _replace_concatenations(parts)
    return _filtered("_bounded_text", parts, [])


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if operator == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | list | tuple) and isinstance(other, int):
                _check_size(len(one) * other)
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _check_size(len(left) + len(right))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)
    elif operator == "%" and isinstance(left, str) and WIDTH.search(left):
        raise TemplateBoundError(f"the format {left[:40]!r} may be too wide")


def _check_growth(name: str, value: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    """Check how long the result of a method or filter may become."""
    others = [*args, *kwargs.values()]
    numbers = [number for number in others if isinstance(number, int)]
    _check_size(max(numbers, default=0))
    texts = [text for text in others if isinstance(text, str)]
    size = len(value) if isinstance(value, str | list | tuple) else 0
    if name == "indent":
        _check_size(size + str(value).count("\n") * max([*numbers, *map(len, texts)], default=4))
    elif name == "replace" and len(texts) > 1:
        _check_size(size + str(value).count(texts[0]) * len(texts[1]))
    elif name == "join":
        separator, items = (value, others[:1]) if isinstance(value, str) and others else ("".join(texts[:1]), [value])
        _check_size(len(separator) * sum(len(item) if hasattr(item, "__len__") else MAX_SIZE // 10 for item in items))
    elif name == "format" and WIDTH.search(str(value)):
        raise TemplateBoundError(f"the format {str(value)[:40]!r} may be too wide")
    elif name == "sum" and any(not isinstance(other, int | float | str) for other in others):
        raise TemplateBoundError("the filter 'sum' takes numbers only")
    elif name == "extend":
        _check_size(size + sum(len(other) for other in others if hasattr(other, "__len__")))


def _checked(result: Any) -> Any:
    """Return a result after checking its size."""
    if isinstance(result, str | list | tuple | dict | set):
        _check_size(len(result))
    elif isinstance(result, int):
        _check_bits(result.bit_length())
    return result


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateBoundError(f"it computes a whole number of more than {MAX_BITS:,} bits")


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise TemplateBoundError(f"it computes a value of more than {MAX_SIZE:,} characters or elements")
