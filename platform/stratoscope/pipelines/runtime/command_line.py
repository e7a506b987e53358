"""Configurations from command lines: defaults, then a YAML file, then options. Each mistake is reported in one line."""

import json
import re
from collections.abc import Collection, Sequence
from enum import Enum
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from stratoscope.errors import SHOWN_VALUE, InputError, first_line, shorten
from stratoscope.pipelines.runtime.config import (
    NO_COMMAS,
    Config,
    ConfigSection,
    default_text,
    is_marked,
    merged,
    validate,
)
from stratoscope.pipelines.runtime.option_names import did_you_mean, field_names, first_option, similar_option
from stratoscope.pipelines.runtime.yaml_file import read_yaml

LEADING_POINT = re.compile(r"(?<![\d.])\.(?=\d)")
"""The decimal point of a number that has no digit before the point."""
NOT_FINITE = re.compile(r"(?i)[+]?(-?)(nan|inf)(?:inity)?")
"""NaN or infinity, as Python prints them."""
PARSING = "Parsing error encountered for "
"""Beginning of pydantic-settings messages, which is removed from our messages."""
NUMBERS = re.compile(r"\[?[-+\d.eE, ]+\]?")


def parse_command_line(config_class: type[Config], job: str, arguments: Sequence[str]) -> Config:
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
    arguments = _whole_texts(arguments, {name for name, field in options.items() if is_marked(field, NO_COMMAS)})
    flags = _as_flags(arguments, {name for name, field in options.items() if field.annotation is bool})
    try:
        values = _command_line(config_class, job)(args=flags)()
    except SettingsError as error:
        message = first_line(error).removeprefix("error parsing CLI: ").removeprefix(PARSING)
        raise InputError(_malformed_list(arguments) or message) from error
    path = values.pop("config", None)
    return validate(config_class, merged({} if path is None else read_yaml(str(path)), values))


class _CommandLineSource(CliSettingsSource[Any]):
    """Command line whose help shows choices and defaults in the form in which users type them."""

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
    """Return the parser of a command's options. Building it is the slowest part of reading a configuration."""
    return _CommandLineSource(
        _settings_class(config_class),
        cli_prog_name=f"stratoscope {job}",
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_parse_none_str="null",
    )


def _settings_class(config_class: type[Config]) -> type[BaseSettings]:
    """Return the configuration class with an additional option `config`, which only the command line has."""

    class WithConfig(config_class):  # type: ignore[valid-type,misc]
        config: str | None = None
        """YAML file with any of these fields; the command line overrides it."""

    WithConfig.__doc__ = config_class.__doc__
    return WithConfig


def _normalized(arguments: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return arguments with option names spelled like the fields, with underscores.

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
    """Return arguments with NaN and infinity in lists of numbers spelled as in JSON, so that they reach the field."""
    result = []
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        items = [item.strip() for item in value.strip("[]").split(",")]
        if any(map(NOT_FINITE.fullmatch, items)) and all(map(_is_number, items)):
            values = ",".join(NOT_FINITE.sub(_as_json, item) for item in items)
            value = f"[{values}]" if value.startswith("[") else values
        result.append(name + equals + value)
    return result


def _whole_texts(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Return arguments where each value of the named options becomes a list with one text, unless it is a JSON list."""
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
    """Return an error message on the first value that begins like a JSON list or mapping but is not a list."""
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
    return f"option {shown} is unknown{did_you_mean(meant and f'--{meant}')} (see --help)"


def _as_flags(arguments: Sequence[str], booleans: set[str]) -> list[str]:
    """Return arguments where boolean options such as `--name true` and `--name=false` become `--name` and `--no-name`.

    Numbers such as .25 become 0.25, because lists are read as JSON.
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
