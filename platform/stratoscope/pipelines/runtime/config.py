"""Configuration of a job: defaults, then a YAML file, then the command line; every mistake is one line."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from reprlib import Repr
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from stratoscope.errors import SHOWN_VALUE, InputError, first_line, shorten
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.option_names import (
    field_names,
    first_option,
    options_at,
    similar_option,
)
from stratoscope.pipelines.runtime.validators import Place, Seed
from stratoscope.pipelines.runtime.yaml_file import read_yaml

NOT_TEXT = re.compile("[\\0\ud800-\udfff]")
"""Null characters, and the bytes of arguments that are not UTF-8."""
LEADING_POINT = re.compile(r"(?<![\d.])\.(?=\d)")
"""The point of a number without a digit before it."""
NOT_FINITE = re.compile(r"(?i)[+]?(-?)(nan|inf)(?:inity)?")
"""NaN or infinity, as Python prints them."""
PARSING = "Parsing error encountered for "
NUMBERS = re.compile(r"\[?[-+\d.eE, ]+\]?")
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


def load_config(config_class: type[Config], job: str, arguments: Sequence[str]) -> Config:
    """Read the configuration of a command.

    Args:
        config_class: the configuration class.
        job: name of the command, for the help text.
        arguments: the command line without the program's name; `--config FILE.yaml` names a file.

    Raises:
        InputError: an unknown name, a wrong value or an unreadable file.
        SystemExit: `--help` was among the arguments.
    """
    options = dict(field_names(config_class))
    arguments = _finite_or_json(_normalized(arguments, ["config", *options]))
    arguments = _whole_texts(arguments, {name for name, field in options.items() if _is_marked(field, NO_COMMAS)})
    flags = _as_flags(arguments, {name for name, field in options.items() if field.annotation is bool})
    try:
        values = _command_line(config_class, job)(args=flags)()
    except SettingsError as error:
        message = first_line(error).removeprefix("error parsing CLI: ").removeprefix(PARSING)
        raise InputError(_malformed_list(arguments) or message) from error
    path = values.pop("config", None)
    return validate(config_class, merged({} if path is None else read_yaml(str(path)), values))


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
        if _is_marked(field, NOT_IN_IDENTITY):
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


class _CommandLineSource(CliSettingsSource[Any]):
    """Command line whose help shows choices and defaults as they are typed."""

    def _metavar_format_recurse(self, obj: Any) -> str:
        if isinstance(obj, type) and issubclass(obj, Enum):
            return self._metavar_format_choices([str(member.value) for member in obj])
        return super()._metavar_format_recurse(obj)

    def _help_format(self, field_name: str, field_info: Any, model_default: Any, *_: Any) -> str:
        default = getattr(model_default, field_name) if isinstance(model_default, BaseModel) else field_info.default
        ending = "required" if field_info.is_required() else f"default: {default_text(default)}"
        return f"{field_info.description or ''} ({ending})".strip().replace("%", "%%")


@cache
def _command_line(config_class: type[ConfigSection], job: str) -> CliSettingsSource[Any]:
    """Return the parser of a command's options; to build it takes longer than all else that reads a configuration."""
    return _CommandLineSource(
        _settings_class(config_class),
        cli_prog_name=f"stratoscope {job}",
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_parse_none_str="null",
    )


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


def _settings_class(config_class: type[Config]) -> type[BaseSettings]:
    """Return the configuration class with the option `config` added, for the command line alone."""

    class WithConfig(config_class):  # type: ignore[valid-type,misc]
        config: str | None = None
        """YAML file with any of these fields; the command line overrides it."""

    WithConfig.__doc__ = config_class.__doc__
    return WithConfig


def _normalized(arguments: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return arguments with the names of their options as fields spell them: with underscores.

    Raises:
        InputError: an option is unknown.
    """
    result = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in ("-h", "--help") or not name.startswith("-") or name.lstrip("-")[:1].isdigit():
            result.append(argument)
            continue
        bare = name.removeprefix("--").replace("-", "_")
        option = f"--{bare}" if bare in known else f"--no-{bare.removeprefix('no_')}"
        if not name.startswith("--") or option.removeprefix("--no-").removeprefix("--") not in known:
            raise InputError(_unknown_option(name, known))
        result.append(option + equals + value)
    return result


def _finite_or_json(arguments: Sequence[str]) -> list[str]:
    """Return arguments with NaN and infinity in lists of numbers as JSON spells them, so that they reach the field."""
    result = []
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        items = [item.strip() for item in value.strip("[]").split(",")]
        if any(map(NOT_FINITE.fullmatch, items)) and all(map(_is_number, items)):
            values = ",".join(NOT_FINITE.sub(_as_json, item) for item in items)
            value = f"[{values}]" if value.startswith("[") else values
        result.append(name + equals + value)
    return result


def _is_marked(field: FieldInfo, mark: JsonDict) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and mark.items() <= extra.items()


def _whole_texts(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Return arguments in which each value of some options is a list of one text, unless it is a list in JSON."""
    result: list[str] = []
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else (option, "", argument)
        if name.removeprefix("--") in names and (equals or not argument.startswith("--")):
            text = value if _is_json_list(value) else json.dumps([value])
            argument = name + equals + text if equals else text  # noqa: PLW2901
        option = name
        result.append(argument)
    return result


def _malformed_list(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with the first value that begins as a list or mapping in JSON and is none."""
    option = ""
    for argument in arguments:
        name, _, value = argument.partition("=") if argument.startswith("--") else (option, "", argument)
        if value.startswith(("[", "{")) and not _is_json_list(value):
            return f'{name} {shorten(repr(value), SHOWN_VALUE)} is not a list; write values with commas, or ["a", "b"]'
        option = name
    return None


def _is_json_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def _is_number(text: str) -> bool:
    return bool(NUMBERS.fullmatch(text) or NOT_FINITE.fullmatch(text))


def _as_json(match: re.Match[str]) -> str:
    return match[1] + ("NaN" if match[2].lower() == "nan" else "Infinity")


def _unknown_option(name: str, known: Sequence[str]) -> str:
    bare, shown = name.removeprefix("--").replace("-", "_"), shorten(repr(name), SHOWN_VALUE)
    example = first_option(bare, known)
    if example is not None:
        return f"option {shown} is a section; did you mean '--{example}'? (see --help)"
    meant = similar_option(bare, known)
    if meant is not None and meant not in known:
        meant = first_option(meant, known)
    return f"option {shown} is unknown{_hint(meant and f'--{meant}')} (see --help)"


def _hint(meant: str | None) -> str:
    return "" if meant is None else f"; did you mean {meant!r}?"


def _as_flags(arguments: Sequence[str], booleans: set[str]) -> list[str]:
    """Return arguments with `--name true` and `--name=false` as the flags `--name` and `--no-name` of boolean fields.

    Numbers such as .25 get their 0, since lists are read as JSON.
    """
    flags: list[str] = []
    for text in arguments:
        argument = LEADING_POINT.sub("0.", text) if NUMBERS.fullmatch(text) else text
        name, _, value = argument.partition("=")
        if value and name.removeprefix("--") in booleans:
            flags += [name, value]
        else:
            flags.append(argument)
    switched: list[str] = []
    for argument in flags:
        is_value = argument.lower() in ("true", "false") and switched and switched[-1].removeprefix("--") in booleans
        if not is_value:
            switched.append(argument)
        elif argument.lower() == "false":
            switched[-1] = switched[-1].replace("--", "--no-", 1)
    return switched


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
        return f"field {quoted!r} is unknown{_hint(meant)}"
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
