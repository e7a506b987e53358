"""Configuration of a job: defaults, then a YAML file, then the command line, and one line for every mistake."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from stratoscope.errors import InputError, first_line, nearest

BARE_POINT = re.compile(r"(?<![\d.])\.(?=\d)")
"""The point of a number that has no digit before it."""
NUMBERS = re.compile(r"\[?[-+\d.eE, ]+\]?")
NOT_IN_IDENTITY: JsonDict = {"affects_result": False}


class ConfigSection(BaseModel):
    """A part of a configuration; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class JobConfig(ConfigSection):
    """What every job can be told."""

    output: str = Field("runs", json_schema_extra=NOT_IN_IDENTITY)
    """Folder or fsspec URL (s3://...) that holds all runs."""
    run_id: str | None = Field(None, json_schema_extra=NOT_IN_IDENTITY)
    """Name of the run; reusing one resumes it. None makes a new one."""
    seed: int = 0
    """Of the order of prompts, of resampling and of random baselines."""
    reuse: bool = Field(False, json_schema_extra=NOT_IN_IDENTITY)
    """Take a finished run of the same model, data, settings and code in its place, where there is one."""
    dry_run: bool = Field(False, json_schema_extra=NOT_IN_IDENTITY)
    """Say what would be done and how much it takes, and do nothing."""


Config = TypeVar("Config", bound=ConfigSection)


def load_config(config_class: type[Config], job: str, arguments: Sequence[str]) -> Config:
    """Read a job's configuration.

    Args:
        config_class: the job's fields.
        job: its name, for the help text.
        arguments: the command line without the program's name; `--config FILE.yaml` names a file.

    Raises:
        InputError: an unknown name, a wrong value or an unreadable file.
        SystemExit: help was asked for.
    """
    names = dict(field_names(config_class))
    _check_names(arguments, ["config", *names])
    settings = _settings_class(config_class)
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            settings,
            cli_prog_name=f"stratoscope {job}",
            cli_parse_args=_as_flags(arguments, {name for name, field in names.items() if field.annotation is bool}),
            cli_implicit_flags=True,
            cli_exit_on_error=False,
            cli_hide_none_type=True,
            cli_avoid_json=True,
            cli_parse_none_str="null",
        )
        given = source()
    except SettingsError as error:
        raise InputError(_plain_parser_error(error)) from error
    path = given.pop("config", None)
    return validate(config_class, merged(_read_yaml(str(path)) if path else {}, given))


def validate(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Return a checked configuration.

    Raises:
        InputError: a name is unknown or a value wrong; the message names the field.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, config_class)) from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings, some over others."""
    both = dict(below)
    for name, value in above.items():
        inner = both.get(name)
        both[name] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both


def result_settings(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return the fields that decide the result, by dotted name: resuming a run needs just these equal."""
    settings: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("affects_result") is False:
            continue
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            settings |= result_settings(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, BaseModel) for item in value):
            settings[prefix + name] = [result_settings(item) for item in value]
        else:
            settings[prefix + name] = value
    return settings


def field_names(config_class: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the field of everything that can be set."""
    for name, field in config_class.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_names(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _settings_class(config_class: type[Config]) -> type[BaseSettings]:
    """Return the job's fields as settings with `config` before them, for the command line alone."""

    class WithConfig(config_class):  # type: ignore[valid-type,misc]
        config: str | None = None
        """YAML file with any of these fields; the command line overrides it."""

    WithConfig.__doc__ = config_class.__doc__
    return WithConfig


def _check_names(arguments: Sequence[str], known: Sequence[str]) -> None:
    for argument in arguments:
        name = argument.split("=")[0]
        if name in ("-h", "--help") or not name.startswith("-") or name.lstrip("-")[:1].isdigit():
            continue
        bare = name.removeprefix("--")
        if not name.startswith("--") or bare.removeprefix("no-") not in known:
            options = [f"--{option}" for option in known]
            raise InputError(f"option {name!r} is unknown{nearest(name, options)} (see --help)")


def _as_flags(arguments: Sequence[str], booleans: set[str]) -> list[str]:
    """Rewrite `--name true` and `--name=false` as the flags `--name` and `--no-name`, for the fields that are one.

    Numbers such as .25 get their 0, for lists are read as JSON.
    """
    flags: list[str] = []
    for given in arguments:
        argument = BARE_POINT.sub("0.", given) if NUMBERS.fullmatch(given) else given
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


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"config {path!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config {path!r} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"config {path!r} must hold fields by name, not a {type(content).__name__}")
    return content


def _explain(error: ValidationError, config_class: type[BaseModel]) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [known for known, _ in field_names(config_class)]
        return f"field {name!r} is unknown{nearest(name, known)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = "" if isinstance(first["input"], dict) else f" {first['input']!r}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{name}{shown}: {message}{more}" if name else f"{message}{more}"


def _plain_parser_error(error: SettingsError) -> str:
    return first_line(error).removeprefix("error parsing CLI: ")


def print_error(job: str, message: str) -> None:
    """Print the one line of a refused or failed run to stderr."""
    print(f"{job}: {' '.join(message.split())}", file=sys.stderr)
