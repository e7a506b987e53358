"""The runs in an output folder, with their state and progress."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stratoscope.errors import DamagedFileError, InputError, type_and_message
from stratoscope.results.lease import LeaseHolder, read_holder
from stratoscope.results.manifest import Manifest
from stratoscope.results.storage import Storage

logger = logging.getLogger(__name__)

State = Literal["running", "done", "failed", "abandoned"]


@dataclass(frozen=True)
class RunState:
    """A run and its current state."""

    manifest: Manifest
    holder: LeaseHolder | None
    """The live process that computes the run, or None."""
    progress: Mapping[str, Any]
    """Progress of the run's last stage: done, total, errors, rate and unit; empty where unknown."""

    @property
    def state(self) -> State:
        """State of the run; a run is abandoned if its manifest says running but no live process holds it."""
        if self.holder is not None:
            return "running"
        return "abandoned" if self.manifest.status == "running" else self.manifest.status


def list_runs(output: str, job: str | None = None) -> Iterator[RunState]:
    """Yield the runs of an output folder, ordered by job and run id.

    Args:
        output: local path or fsspec URL that holds all runs.
        job: name of a job, to list its runs alone.

    Raises:
        InputError: the output cannot be used.
    """
    storage = Storage(output)
    local = storage.local_path()
    if local is not None and local.exists() and not local.is_dir():
        raise InputError(f"output {output!r} is a file; name the folder that holds all runs")
    try:
        jobs = storage.names()
    except Exception as error:  # each store has its own errors
        raise InputError(f"output {output!r} cannot be reached ({type_and_message(error)})") from error
    for name in [job] if job else jobs:
        for run_id in storage.names(name):
            run = storage.child(name, run_id)
            try:
                manifest = Manifest.read(run)
            except DamagedFileError as error:
                logger.warning("%s; the run is left out", error)
                continue
            except OSError:
                continue  # not a run, or one that has not started
            holder = read_holder(run)
            alive = holder is not None and holder.is_alive(time.time())
            progress = manifest.progress if holder is None else holder.progress
            yield RunState(manifest, holder if alive else None, progress)
