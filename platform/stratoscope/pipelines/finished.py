"""Finished runs that other runs stand on."""

from stratoscope.errors import InputError, suggest
from stratoscope.results import Manifest, Storage
from stratoscope.results.manifest import NAME


def open_finished(name: str, output: str, job: str, field: str = "statistics") -> tuple[Storage, Manifest]:
    """Open a finished run that a field of the configuration names.

    Args:
        name: its folder or URL, or its run_id under `output`.
        output: folder that holds all runs.
        job: what it has to be a run of.
        field: that names it, for messages.

    Raises:
        InputError: there is no such run, or it is not finished.
    """
    by_id = Storage(output).child(job, name) if "/" not in name else None
    for storage in [by_id, Storage(name)]:
        if storage is None or not storage.exists(NAME):
            continue
        manifest = Manifest.from_json(storage.read(NAME))
        if manifest.job != job:
            raise InputError(f"{field} {name!r} is a run of {manifest.job}, not of {job}")
        if manifest.status != "done":
            raise InputError(f"{field} {name!r} is {manifest.status}, not done; finish it with the same run_id")
        return storage, manifest
    known = Storage(output).child(job).names()
    hint = suggest(name, known, "runs") if known else f"; {output} holds no {job} runs"
    raise InputError(f"{field} {name!r} is no folder of a {job} run and no run_id under {output}{hint}")
