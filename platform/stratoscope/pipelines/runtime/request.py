"""Digest of a run's request in less than a second: configuration, code, packages, machine and input files.

`run_lookup.identity` is a digest of content. It requires opening the model and reading the prompts. Two runs with the
same request have the same identity, because none of its inputs has changed. Therefore, an equal run is recognised
before torch is loaded and Ray is started. The converse is not true: a copy of a file has the same content but a
different state.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from stratoscope.digest import code_digest, digest
from stratoscope.errors import InputError
from stratoscope.execution.address import VARIABLE, is_local
from stratoscope.extensions import added_digest
from stratoscope.hub import hub_commit, local_path
from stratoscope.pipelines.runtime.config import JobConfig, result_settings
from stratoscope.results.storage import Storage

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
MOST_FILES = 10_000
"""Maximum number of files in an input folder. The state of a larger folder counts as unknown."""
MACHINE_VARIABLES = ("STRATOSCOPE_CPUS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
BUNDLED_TASKS = Path(__file__).parents[2] / "evaluation" / "tasks"


class _UnknownStateError(Exception):
    """The state of an input cannot be determined quickly."""


def request_digest(job: str, config: JobConfig, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the digest of a run's request, or None if an input's state is unknown without opening it, or on a cluster.

    Args:
        job: name of the job.
        config: configuration of the run.
        environment: variables of the process that computes the run.
    """
    if not is_local():
        return None  # the device of a run depends on the cluster's resources
    settings = result_settings(config)
    try:
        inputs = {name: _state(name, value, settings, config.output) for name, value in settings.items()}
    except (_UnknownStateError, OSError):
        return None
    return digest(
        {
            "job": job,
            "settings": settings,
            "inputs": inputs,
            "code": code_digest(),
            "added": added_digest(),
            "packages": _packages(),
            "python": sys.version,
            "machine": _machine(environment),
        }
    )


def _state(name: str, value: Any, settings: Mapping[str, Any], output: str) -> list[Any]:
    """Return the state of all files that a setting names."""
    return [state for text in _texts(value) for state in _states(name, text, settings, output)]


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a setting."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _texts(inner)


def _states(name: str, text: str, settings: Mapping[str, Any], output: str) -> Iterator[Any]:
    """Yield the states of everything that a text may refer to: a path, a run, a hub name or a task.

    Raises:
        _UnknownStateError: it refers to something that would have to be opened.
    """
    if not text or "\n" in text or len(text) > 4096:
        return
    if name.endswith(".tasks"):
        # The files that another task's data and functions are in are known only once it is loaded.
        if not (BUNDLED_TASKS / f"{text}.yaml").is_file():
            raise _UnknownStateError(text)
        return
    path = local_path(text)
    if path.exists():
        yield from _file_states(path)
        return
    if "://" in text:
        raise _UnknownStateError(text)
    yield from _run_states(text, output)
    section = name.rpartition(".")[0]
    if HUB_NAME.fullmatch(text):
        if not name.endswith(".source"):
            raise _UnknownStateError(text)
        yield _commit(name, text, settings.get(f"{section}.revision"))


def _commit(field: str, name: str, revision: str | None) -> str:
    try:
        return hub_commit("model" if field.startswith("model.") else "dataset", name, revision, field)
    except InputError as error:
        raise _UnknownStateError(name) from error


def _run_states(run_id: str, output: str) -> Iterator[Any]:
    """Yield the states of the files of all runs with a given run_id."""
    folder = Storage(output).local_path()
    if folder is None:
        if "/" not in run_id and Storage(output).names():
            raise _UnknownStateError(run_id)
        return
    if "/" not in run_id:
        for job in sorted(folder.glob("*")):
            if (job / run_id / "manifest.json").is_file():
                yield from _file_states(job / run_id)


def _file_states(path: Path) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield name, size, times and inode of a file, or of all files in a folder. They differ if a file has changed."""
    files = [path] if path.is_file() else sorted(file for file in _walk(path) if file.is_file())
    for file in files:
        status = file.stat()
        yield str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _walk(folder: Path) -> list[Path]:
    files: list[Path] = []
    for file in folder.rglob("*"):
        files.append(file)
        if len(files) > MOST_FILES:
            raise _UnknownStateError(str(folder))
    return files


@cache
def _packages() -> list[str]:
    """Return name and version of all installed packages, which include libraries, models and known data sets."""
    return sorted({folder.name for entry in sys.path if entry for folder in Path(entry).glob("*.dist-info")})


def _machine(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the facts that determine the device and the number of workers of a run."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "gpus": sorted(str(device) for device in Path("/dev").glob("nvidia[0-9]*")),
        "environment": {name: environment.get(name) for name in (*MACHINE_VARIABLES, VARIABLE)},
    }
