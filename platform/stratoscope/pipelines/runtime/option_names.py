"""Names of the options of a configuration, and the closest match to an unknown name."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from stratoscope.errors import closest


def field_names(config_class: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the field of each option."""
    for name, field in config_class.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_names(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def section_class(annotation: Any) -> type[BaseModel] | None:
    """Return the section class in the annotation of a field, including inside a list or a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := section_class(part))), None)


def first_option(section: str, known: Iterable[str]) -> str | None:
    """Return the option `source` of a section, or its first option; None if there is no such section."""
    options = [option for option in known if option.startswith(f"{section}.")]
    return next((option for option in options if option == f"{section}.source"), options[0] if options else None)


def similar_option(name: str, known: Sequence[str]) -> str | None:
    """Return the option or section that an unknown name probably refers to, or None.

    Args:
        name: the dotted name.
        known: dotted names of options. Their parts before the last dot are the sections.
    """
    sections = {option.rpartition(".")[0] for option in known} - {""}
    section, _, last = name.rpartition(".")
    if section in sections:
        return closest(name, [option for option in known if option.startswith(f"{section}.")])
    return closest(name, [*known, *sections]) or _with_last_part(last, known) or closest(section, sections)


def _with_last_part(last: str, known: Iterable[str]) -> str | None:
    """Return the option whose last part is a given name, if there is exactly one."""
    ends = [option for option in known if option.rpartition(".")[2] == last]
    return ends[0] if len(ends) == 1 else None


def options_at(config_class: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the dotted names of all options, and of those in the list entry at a location of a configuration.

    Args:
        config_class: the configuration class.
        location: names and indices that lead to the list entry.
    """
    options = [option for option, _ in field_names(config_class)]
    section: type[BaseModel] | None = config_class
    for part in location:
        if isinstance(part, str) and section is not None:
            field = section.model_fields.get(part)
            section = None if field is None else section_class(field.annotation)
    prefix = "".join(f"{part}." for part in location)
    entry = [prefix + name for name in section.model_fields] if location and section is not None else []
    return options + [name for name in entry if name not in options]


def did_you_mean(name: str | None) -> str:
    """Return the end of a message that suggests a name; empty if there is no suggestion."""
    return "" if name is None else f"; did you mean {name!r}?"
