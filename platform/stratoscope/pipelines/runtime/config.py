"""Configuration of a job: sections with checked fields; every mistake is one line."""

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from reprlib import Repr
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from stratoscope.errors import SHOWN_VALUE, InputError, shorten
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.option_names import (
    did_you_mean,
    field_names,
    first_option,
    options_at,
    similar_option,
)
from stratoscope.pipelines.runtime.validators import Place, Seed

NOT_TEXT = re.compile("[\\0\ud800-\udfff]")
"""Null characters, and the bytes of arguments that are not UTF-8."""
NOT_IN_IDENTITY: JsonDict = {"affects_result": False}
NO_COMMAS: JsonDict = {"comma_separated": False}
"""Mark of lists of texts, such as templates, which the command line does not divide at commas."""
VALUES = Repr()
"""Quotes refused values of any size in little time."""
VALUES.maxstring = VALUES.maxother = VALUES.maxlong = SHOWN_VALUE
MAX_TEXT = 20_000
"""Maximum number of characters of a text."""
MAX_DEPTH = 20
"""Most levels of nesting of values that are not fields, such as the settings of an audit."""


class ConfigSection(BaseModel):
    """Base class of the sections of a configuration; unknown names, NaN, infinity and empty text are refused."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        frozen=True,
        allow_inf_nan=False,
        str_min_length=1,
        str_max_length=MAX_TEXT,
    )

    @model_validator(mode="before")
    @classmethod
    def _parse_choices(cls, values: Any) -> Any:
        """Convert numbers among the choices of a field from text, which is what the command line passes.

        Truth values become text where a field takes none, since pydantic would read them as 0 and 1.
        """
        if not isinstance(values, dict):
            return values
        values = values | {name: _truth_as_text(values[name]) for name in _numbers(cls) if name in values}
        return values | {name: _parsed(values[name], texts) for name, texts in _choices(cls).items() if name in values}

    def demand(self, name: str) -> Demand | None:  # noqa: ARG002 - for sections that override it
        """Return the processes that the section asks for at the same time, or None.

        Args:
            name: name of the section, for messages.
        """
        return None


class JobConfig(ConfigSection):
    """Options of every job."""

    output: Place = Field("runs", json_schema_extra=NOT_IN_IDENTITY)
    """Folder or fsspec URL (s3://...) that holds all runs."""
    run_id: str | None = Field(None, json_schema_extra=NOT_IN_IDENTITY)
    """Name of the run. An existing one is resumed; null generates a new one."""
    seed: Seed = 0
    """Seed of the order of prompts, of resampling and of random baselines."""
    reuse: bool = Field(False, json_schema_extra=NOT_IN_IDENTITY)
    """Use a finished run of the same model, data, settings and code instead, where there is one."""
    dry_run: bool = Field(False, json_schema_extra=NOT_IN_IDENTITY)
    """Print the plan and its cost, and stop."""

    def demands(self) -> list[Demand]:
        """Return the processes that the sections ask for."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        demands = (s.demand(name) for name, s in sections.items() if isinstance(s, ConfigSection))
        return [demand for demand in demands if demand is not None]


Config = TypeVar("Config", bound=ConfigSection)


def validate(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Return values as a configuration.

    Raises:
        InputError: a name is unknown or a value wrong; the message names the field.
    """
    _check_text(values)
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, config_class)) from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with changes applied to them."""
    result = dict(base)
    for name, value in changes.items():
        inner = result.get(name)
        result[name] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def result_settings(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return the fields that decide the result, by dotted name. A run can be resumed where they are equal."""
    settings: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        if is_marked(field, NOT_IN_IDENTITY):
            continue
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            settings |= result_settings(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
            settings[prefix + name] = [result_settings(item) for item in value]
        else:
            settings[prefix + name] = value
    return settings


def default_text(value: Any) -> str:
    """Return a default as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
        return "a small example"
    if isinstance(value, list) and value:
        return ",".join(default_text(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def enum_choices(annotation: Any) -> list[str]:
    """Return the values of the enumeration that a field's type is or holds; none where it holds no enumeration."""
    kinds = [annotation, *get_args(annotation)]
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    return [str(member.value) for kind in enums for member in kind]


@cache
def _choices(config_class: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return the choices of each field that are not text, by their text."""
    fields = {name: _literals(field.annotation) for name, field in config_class.model_fields.items()}
    texts = {
        name: {default_text(value): value for value in values if not isinstance(value, str)}
        for name, values in fields.items()
    }
    return {name: values for name, values in texts.items() if values}


@cache
def _numbers(config_class: type[BaseModel]) -> list[str]:
    """Return the fields that are or hold numbers, but no truth values."""
    kinds = {name: set(_leaf_types(field.annotation)) for name, field in config_class.model_fields.items()}
    return [name for name, types in kinds.items() if types & {int, float} and bool not in types]


def _leaf_types(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from map(type, arguments)
    elif arguments:
        for argument in arguments:
            yield from _leaf_types(argument)
    else:
        yield annotation


def _truth_as_text(value: Any) -> Any:
    if isinstance(value, list):
        return [_truth_as_text(item) for item in value]
    return default_text(value) if isinstance(value, bool) else value


def _literals(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return list(arguments)
    return [value for argument in arguments for value in _literals(argument)]


def _parsed(value: Any, texts: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_parsed(item, texts) for item in value]
    return texts.get(value, value) if isinstance(value, str) else value


def is_marked(field: FieldInfo, mark: JsonDict) -> bool:
    """Return whether a field has a mark, such as `NOT_IN_IDENTITY`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and mark.items() <= extra.items()


def _check_text(value: Any, name: str = "", depth: int = 0) -> None:
    """Check that values are not nested too deeply and that text can be written to files and terminals.

    Raises:
        InputError: they are, or text has a null character or was not UTF-8 on the command line.
    """
    if depth > MAX_DEPTH:
        raise InputError(f"{shorten(name, SHOWN_VALUE)}: values are nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_text(str(key), f"{name}.{key}".lstrip("."), depth + 1)
            _check_text(inner, f"{name}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_text(inner, f"{name}.{index}", depth + 1)
    elif isinstance(value, str) and NOT_TEXT.search(value):
        raise InputError(
            f"{shorten(name, SHOWN_VALUE)} {_shown(value)}: it has a null character or is not UTF-8; retype it"
        )


def _explain(error: ValidationError, config_class: type[BaseModel]) -> str:
    """Return the first mistake in one line, with the name of the field."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    quoted = shorten(name, SHOWN_VALUE)
    if first["type"] == "extra_forbidden":
        meant = similar_option(name, options_at(config_class, first["loc"][:-1]))
        return f"field {quoted!r} is unknown{did_you_mean(meant)}"
    shown = "" if isinstance(first["input"], dict) else f" {_shown(first['input'])}"
    example = first_option(name, [option for option, _ in field_names(config_class)])
    if first["type"] == "model_type" and example is not None:
        return f"{name}{shown}: {name} is a section; did you mean {example!r}?"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{quoted}{shown}: {message}{more}" if name else f"{message}{more}"


def _shown(value: Any) -> str:
    """Return a refused value as a message quotes it."""
    return shorten(VALUES.repr(value), SHOWN_VALUE)
