"""What runs there are in an output, and how far those are that somebody works on."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stratoscope.results.lease import Holder, read_holder
from stratoscope.results.manifest import NAME, Manifest
from stratoscope.results.storage import Storage

State = Literal["running", "done", "failed", "abandoned"]


@dataclass(frozen=True)
class RunState:
    """A run and its state now."""

    manifest: Manifest
    holder: Holder | None
    """Who works on it, if somebody does."""

    @property
    def state(self) -> State:
        """Its state: abandoned is a run that says that it is running, while nobody works on it."""
        if self.holder is not None:
            return "running"
        return "abandoned" if self.manifest.status == "running" else self.manifest.status


def list_runs(output: str, job: str | None = None) -> Iterator[RunState]:
    """Yield the runs of an output by job and run id.

    Args:
        output: local path or fsspec URL that holds all runs.
        job: only this job's.

    Raises:
        InputError: the output cannot be used.
    """
    storage = Storage(output)
    for name in [job] if job else storage.names():
        for run_id in storage.names(name):
            run = storage.child(name, run_id)
            try:
                manifest = Manifest.from_json(run.read(NAME))
            except (OSError, ValueError, TypeError):
                continue  # not a run, or one that has not begun
            holder = read_holder(run)
            yield RunState(manifest, holder if holder is not None and holder.is_alive(time.time()) else None)
