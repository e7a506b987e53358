"""Packages whose public names are imported when they are first used, so that one name does not load torch for all."""

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def exports(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package, for the names that it imports under `if TYPE_CHECKING`.

    Type checkers and readers see ordinary imports. These imports are the only list of the public names and their
    modules.

    Args:
        package: `__name__` of the package.
    """
    modules: dict[str, str] = {}

    def get(name: str) -> Any:
        if not modules:
            modules.update(_imports(Path(str(sys.modules[package].__file__))))
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


def _imports(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the names that a file imports under `if TYPE_CHECKING`, and the module of each."""
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and isinstance(statement.test, ast.Name):
            for each in statement.body:
                if isinstance(each, ast.ImportFrom):
                    yield from ((alias.name, str(each.module)) for alias in each.names)
