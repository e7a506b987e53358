"""Figures of the package's structure, read from its source; `python tests/structure.py` prints them.

Nothing is imported: modules are parsed, so that imports inside functions and under TYPE_CHECKING count as well.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "platform"
PACKAGE = "stratoscope"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module by its dotted name."""
    trees = {}
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def imports(name: str) -> set[str]:
    """Return the modules of the package that a module imports anywhere, the submodule where a name is one."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {target if target in modules() else node.module for target in submodules}
    return found & modules().keys()


def import_cycle() -> list[str]:
    """Return the modules of an import cycle; none where the package has no cycle."""
    sorter = TopologicalSorter({name: imports(name) for name in modules()})
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def repeated_class_names() -> list[str]:
    """Return the names that several classes, or aliases of different types, share.

    An alias that several modules define alike, such as `Tensor = torch.Tensor`, has one meaning. `Row` is none: rows
    have types of their own.
    """
    meanings = {meaning for name, tree in modules().items() for meaning in _meanings(name, tree)}
    counts = Counter(name for name, _ in meanings)
    return sorted(name for name, count in counts.items() if count > 1 or name == "Row")


def _meanings(module: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the name of each class and type alias of a module, and what it stands for."""
    yield from ((node.name, f"{module}:{node.lineno}") for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and value and _is_camel_case(target.id) and not _is_type_variable(value):
            yield target.id, ast.unparse(value)


def _is_camel_case(name: str) -> bool:
    bare = name.lstrip("_")
    return bare[:1].isupper() and any(letter.islower() for letter in bare)


def _is_type_variable(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "ParamSpec")


def row_types() -> set[str]:
    """Return the names of the classes that describe rows of tables."""
    classes = [node for tree in modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names = {"TableRow"}
    while added := {c.name for c in classes if c.name not in names and names & {ast.unparse(b) for b in c.bases}}:
        names |= added
    return names - {"TableRow"}


def rows_built_by_position() -> list[str]:
    """Return the places where a row gets values by position."""
    names = row_types()
    return [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in names
    ]


def function_lengths() -> list[int]:
    """Return the number of lines of each function, its signature and docstring included."""
    functions = [node for tree in modules().values() for node in ast.walk(tree) if isinstance(node, Function)]
    return [(function.end_lineno or 0) - function.lineno + 1 for function in functions]


def length_quantile(share: float) -> int:
    """Return the number of lines that a share of the functions do not exceed."""
    lengths = sorted(function_lengths())
    return lengths[round(share * (len(lengths) - 1))]


def undocumented() -> list[str]:
    """Return the public modules, classes, functions and methods without a docstring."""
    return [name for name, node in _public() if ast.get_docstring(node) is None]


def docstring_share() -> float:
    """Return the share of public modules, classes, functions and methods that have a docstring."""
    return 1 - len(undocumented()) / sum(1 for _ in _public())


def _public() -> Iterator[tuple[str, ast.Module | ast.ClassDef | Function]]:
    for name, tree in modules().items():
        yield name, tree
        yield from _public_members(name, tree)


def _public_members(name: str, parent: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    for node in parent.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") and not _is_overload(node):
            yield f"{name}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _public_members(f"{name}.{node.name}", node)


def _is_overload(node: ast.ClassDef | Function) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list)


def attribute_docstrings() -> Iterator[tuple[str, str]]:
    """Yield module and line, and text of each docstring below an attribute or constant."""
    for name, tree in modules().items():
        for parent in ast.walk(tree):
            body = getattr(parent, "body", None)
            if not isinstance(body, list):
                continue
            for node, below in pairwise(body):
                if isinstance(node, ast.Assign | ast.AnnAssign) and _is_text(below):
                    yield f"{name}:{below.lineno}", below.value.value


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def num_lines(folder: str = "") -> int:
    """Return the number of lines of all modules in a folder of the package."""
    files = (SOURCE / PACKAGE / folder).rglob("*.py")
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def pipelines_share() -> float:
    """Return the share of the package's lines that are in pipelines."""
    return num_lines("pipelines") / num_lines()


def report() -> Iterator[str]:
    """Yield the figures, a line each."""
    yield f"lines: {num_lines():,}, of these in pipelines: {pipelines_share():.1%}"
    yield f"functions: median {length_quantile(0.5)} lines, 90th percentile {length_quantile(0.9)}"
    yield f"docstrings of public names: {docstring_share():.1%}"
    yield f"import cycle: {' -> '.join(import_cycle()) or 'none'}"
    yield f"class names used more than once: {', '.join(repeated_class_names()) or 'none'}"


if __name__ == "__main__":
    print("\n".join(report()))
