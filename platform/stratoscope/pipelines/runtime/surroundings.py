"""Checks of the machine on which a job is about to run: folders, environment variables and resources."""

import errno
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from stratoscope.errors import InputError, shorten, type_and_message
from stratoscope.execution.address import is_local
from stratoscope.execution.capacity import NodeType, machine_resources, node_types
from stratoscope.execution.socket_folder import ray_folder
from stratoscope.pipelines.runtime.config import JobConfig
from stratoscope.pipelines.runtime.demand import THE_CLUSTER, Demand
from stratoscope.results import RunFolder, Storage

logger = logging.getLogger(__name__)

QUOTED = 150
"""Maximum number of characters of a path or reason in a message."""
PROBE = ".stratoscope-"
"""Prefix of the empty folder that is created to test write access."""
STORE_S = 20.0
"""Seconds within which an object store must respond."""
MAX_PATH = 4095 - 400
"""Maximum number of bytes in the path of a run. It leaves room for the paths of files in the run."""


def check_place(output: str, folder: RunFolder) -> None:
    """Check that the location of a run is accessible, before the run is read.

    Args:
        output: the field of the configuration.
        folder: folder of the run, which need not exist.

    Raises:
        InputError: a part of the path is a file or too long, or the object store cannot be reached.
    """
    path = folder.storage.local_path()
    if path is None:
        _check_store(output, folder)
        return
    with _refusing("output", output):
        if len(os.fsencode(path)) > MAX_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if not _existing(path.absolute()).is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def check_surroundings(config: JobConfig, folder: RunFolder) -> None:
    """Check everything that a job requires of this machine, before the job reads its input.

    Args:
        config: configuration of the job.
        folder: folder of its run, which need not exist.

    Raises:
        InputError: the output or the folder for temporary files cannot be written, or the machine has too few
            resources.
    """
    check_writable("output", config.output, folder.storage)
    check_temporary_folder()
    if is_local():
        ray_folder()
        check_machine(config.demands())


def check_machine(demands: Sequence[Demand]) -> None:
    """Check that this machine has what processes need.

    Raises:
        InputError: it does not. No other machine would join, so the processes would wait forever.
    """
    # Every machine has a CPU. Larger demands need Ray to detect the resources, but a reused stage must not need Ray.
    larger = [demand for demand in demands if demand.lack([{"CPU": 1}])]
    machine = machine_resources() if larger else {}
    for demand in larger:
        if lack := demand.lack([machine]):
            raise InputError(f"{lack}; ask for less, or set RAY_ADDRESS to a cluster that has more")


def missing_in_cluster(
    demands: Sequence[Demand],
    nodes: Sequence[Mapping[str, float]],
    types: Sequence[NodeType] | None,
) -> list[str]:
    """Return what a cluster must start before processes can run, with one line for each demand that has to wait.

    Args:
        demands: the processes.
        nodes: resources of each living node, by name.
        types: types of nodes that its autoscaler can start; empty if it has an autoscaler but the types are not
            known, None if it has no autoscaler.

    Raises:
        InputError: the cluster lacks resources that no autoscaler can add.
    """
    waiting = []
    for demand in demands:
        lack = demand.lack(nodes, THE_CLUSTER)
        if lack is None:
            continue
        if types is None:
            raise InputError(f"{lack}; ask for less, or add nodes: it has no autoscaler")
        fitting = [kind for kind in types if demand.fits([kind.resources])]
        if types and not fitting:
            names = ", ".join(kind.name for kind in types)
            raise InputError(f"{lack}, and no node of a type that its autoscaler can start has that ({names})")
        starts = f"a node of type {fitting[0].name}" if fitting else "another node"
        waiting.append(f"{lack}; waiting until the autoscaler has started {starts}")
    return waiting


def check_writable(field: str, value: str, storage: Storage) -> None:
    """Check write access to a local folder by creating a temporary folder in it, or in its deepest existing parent.

    Args:
        field: the field of the configuration that names the folder.
        value: its value.
        storage: the folder.

    Raises:
        InputError: the folder cannot be written.
    """
    path = storage.local_path()
    if path is not None:
        with _refusing(field, value), tempfile.TemporaryDirectory(prefix=PROBE, dir=_existing(path.absolute())):
            pass


def check_connected(config: JobConfig, console: Console) -> None:
    """Check that the connected cluster has what a job needs, and print what the job has to wait for.

    Args:
        config: configuration of the job.
        console: shows what the job waits for.

    Raises:
        InputError: the cluster lacks resources that no autoscaler can add.
    """
    from stratoscope.execution import node_resources

    if not is_local():
        for line in missing_in_cluster(config.demands(), node_resources(), node_types()):
            logger.warning(line)
            console.print(line, soft_wrap=True, markup=False)


@contextmanager
def _refusing(field: str, value: str) -> Iterator[None]:
    """Refuse a folder if the block cannot write to it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{field} {shorten(repr(value), QUOTED)} cannot be written: {reason}; name a folder that can"
        ) from error


def _existing(path: Path) -> Path:
    """Return the deepest existing part of a path. A path below a file has none, and raises an error."""
    for folder in (path, *path.parents):
        try:
            folder.stat()
        except FileNotFoundError:
            continue
        return folder
    return path


def _check_store(output: str, folder: RunFolder) -> None:
    """Check that an object store responds within `STORE_S` seconds. Its client itself might retry for minutes."""
    errors: list[Exception] = []

    def look() -> None:
        try:
            folder.storage.names()
        except Exception as error:  # each store has its own errors
            errors.append(error)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(STORE_S)
    if not looking.is_alive() and not errors:
        return
    reason = type_and_message(errors[0]) if errors else f"no answer in {STORE_S:.0f} s"
    raise InputError(
        f"output {shorten(repr(output), QUOTED)} cannot be reached ({shorten(reason, QUOTED)}); check its name, the "
        "credentials and the network"
    ) from (errors[0] if errors else None)


def check_temporary_folder() -> None:
    """Check that this process can write temporary files.

    Raises:
        InputError: it cannot; the message names TMPDIR.
    """
    try:
        with tempfile.TemporaryFile():
            pass
    except OSError as error:
        tried = ", ".join(_temporary_folders())
        raise InputError(
            f"TMPDIR: no folder for temporary files can be written ({tried}: {error.strerror or error}); set it to one"
        ) from error


def _temporary_folders() -> Iterator[str]:
    yield shorten(os.environ.get("TMPDIR", "/tmp"), QUOTED)
