"""Registries that other packages extend through the entry points of their own packaging."""

import logging
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from stratoscope.digest import digest, file_digest

Kind = TypeVar("Kind")
GROUPS = ("metrics", "forecasters", "perturbations", "stages")
"""Groups of entry points, without their prefix `stratoscope.`."""
logger = logging.getLogger(__name__)


class Registry(Mapping[str, Kind]):
    """The package's own entries of a kind, and those of installed packages, which are imported on first use.

    An entry of another package is skipped with a warning if it cannot be imported, is not of this kind, or has the same
    name as another entry. The other entries keep working.

    Args:
        own: the package's own entries by name.
        group: group of entry points, such as 'stratoscope.metrics'.
        kind: type of the entries.
    """

    def __init__(self, own: Mapping[str, Kind], group: str, kind: type[Kind]) -> None:
        self._own, self._group, self._kind = dict(own), group, kind

    def __getitem__(self, name: str) -> Kind:
        """Return an entry."""
        return self._own[name] if name in self._own else self._added[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over names, the package's own first."""
        yield from self._own
        yield from self._added

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._own) + len(self._added)

    @property
    def own(self) -> list[str]:
        """Names of the package's own entries."""
        return list(self._own)

    @cached_property
    def _added(self) -> dict[str, Kind]:
        added: dict[str, Kind] = {}
        for point in entry_points(group=self._group):
            where = f"{point.dist.name if point.dist else 'a package'}: {self._group} {point.name!r} ({point.value})"
            try:
                value = point.load()
            except Exception as error:
                logger.warning("%s is left out: it cannot be imported: %s", where, error)
                continue
            if not isinstance(value, self._kind):
                logger.warning("%s is left out: it is not a %s", where, self._kind.__name__)
            elif point.name in self._own or point.name in added:
                logger.warning("%s is left out: another entry has that name", where)
            else:
                added[point.name] = value
        return added


@cache
def added_digest() -> str:
    """Return a digest of all entries of other packages: the versions and the source of these packages."""
    added: dict[str, list[str]] = {}
    for group in GROUPS:
        for point in entry_points(group=f"stratoscope.{group}"):
            version = f"{point.dist.name}=={point.dist.version}" if point.dist else ""
            added[f"{group}:{point.name}"] = [version, source_digest(point.module)]
    return digest(added)


def source_digest(module: str) -> str:
    """Return a digest of the source of a module's package; an empty string if there is no source."""
    try:
        spec = find_spec(module.partition(".")[0])
    except Exception:  # the registry reports it on import
        return ""
    if spec is None:
        return ""
    if spec.submodule_search_locations is None:
        origin = Path(spec.origin) if spec.origin else None
        return file_digest(origin) if origin and origin.is_file() else ""
    # The folder of an installation does not affect what the package computes.
    folders = map(Path, spec.submodule_search_locations)
    files = [(folder, file) for folder in folders for file in folder.rglob("*.py") if file.is_file()]
    return digest({str(file.relative_to(folder)): file_digest(file) for folder, file in files})
