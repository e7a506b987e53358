"""Templates that render a row as a prompt."""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, meta

from stratoscope.data.rows import column_names, is_missing
from stratoscope.data.template_bounds import BoundedEnvironment, TemplateBoundError
from stratoscope.errors import InputError, first_line


class _MissingUsedError(Exception):
    """Raised where a template computes with a missing value."""


class _Missing:
    """A missing value: no text, no elements, and false; what is computed from it is missing too."""

    def _missing(self, *_arguments: Any, **_options: Any) -> "_Missing":
        return self

    def _refuse(self, *_arguments: Any) -> Any:
        raise _MissingUsedError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __str__(self) -> str:
        return ""

    __repr__ = __str__

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False

    def __contains__(self, _item: Any) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Missing)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(None)

    __getitem__ = __call__ = __round__ = __abs__ = __neg__ = __pos__ = _missing
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _missing
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __pow__ = __rpow__ = _missing
    __int__ = __float__ = __index__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse


class _Unknown(StrictUndefined):
    """A name that is not a column; a template must not use it. A key that an object lacks is a missing value."""

    def __new__(cls, hint: Any = None, obj: Any = None, *_arguments: Any, **_options: Any) -> Any:
        """Create a missing value for a key that an object lacks."""
        return _Missing() if hint is None and isinstance(obj, Mapping) else super().__new__(cls)


class PromptTemplate:
    """A Jinja template over the columns of a row.

    A missing value is rendered as nothing. A prompt is empty, whatever other text the template has, if all values that
    it prints, or all columns that it names, are missing or blank.

    Args:
        source: text of the template.
        field: field of the configuration that holds it, for messages.

    Raises:
        InputError: the text is not a Jinja template.
    """

    def __init__(self, source: str, field: str = "prompts.template") -> None:
        self._name = f"{field} {source!r:.120}"
        self._num_printed = self._num_filled = 0
        self._environment = BoundedEnvironment(self._count, undefined=_Unknown, keep_trailing_newline=True)
        self._environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "default": _encode}
        self._environment.tests["none"] = lambda value: value is None or isinstance(value, _Missing)
        try:
            self._columns = meta.find_undeclared_variables(self._environment.parse(source))
            self._template = self._environment.from_string(source)
        except Exception as error:  # Python's own compiler refuses some templates
            raise InputError(f"{self._name} is not a Jinja template: {first_line(error)}") from error

    def render(self, row: Mapping[str, Any]) -> str:
        """Return the prompt of a row, which is empty if its values are.

        Args:
            row: columns by name, as the file has them.

        Raises:
            InputError: the template does not match the columns, or exceeds a limit of time or size.
        """
        values = {name: _renderable(row[name]) for name in self._columns if name in row}
        if values and not any(str(value).strip() for value in values.values()):
            return ""
        self._num_printed = self._num_filled = 0
        try:
            text = self._environment.render(self._template, values)
        except _MissingUsedError:
            return ""
        except TemplateBoundError as error:
            raise InputError(f"{self._name}: {error}") from error
        except Exception as error:  # expressions and filters of a template raise any exception
            raise InputError(
                f"{self._name} does not match the columns {column_names(row)}: {first_line(error)}"
            ) from error
        return "" if self._num_printed and not self._num_filled else text

    def _count(self, value: Any) -> Any:
        """Count a printed value."""
        self._num_printed += 1
        self._num_filled += bool(str(value).strip())
        return value


def _encode(value: Any) -> None:
    """Encode a missing value as null for the filter `tojson`.

    Raises:
        TypeError: the value is not a missing value, and JSON cannot represent it.
    """
    if not isinstance(value, _Missing):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _renderable(value: Any) -> Any:
    """Return a value with `_Missing` for None and NaN, and text for bytes."""
    if is_missing(value):
        return _Missing()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return {key: _renderable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_renderable(part) for part in value]
    return value
