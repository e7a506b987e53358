"""Finished runs that other runs stand on, or that stand for others."""

from collections.abc import Mapping
from typing import Any

from stratoscope.digest import code_digest, digest
from stratoscope.errors import InputError, nearest, suggest
from stratoscope.extensions import added_digest
from stratoscope.results import Manifest, Storage, list_runs, package_versions
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


def find_run(name: str, output: str, job: str | None = None) -> tuple[Storage, Manifest]:
    """Open a run by whatever it is called.

    Args:
        name: its folder or URL, or its run_id under `output`.
        output: folder that holds all runs.
        job: only runs of this job.

    Raises:
        InputError: there is no such run, or there are several.
    """
    folder = Storage(name)
    if folder.exists(NAME):
        return folder, Manifest.from_json(folder.read(NAME))
    runs = [run.manifest for run in list_runs(output, job)]
    found = [manifest for manifest in runs if manifest.run_id == name]
    if len(found) == 1:
        return Storage(output).child(found[0].job, name), found[0]
    if found:
        jobs = ", ".join(manifest.job for manifest in found)
        raise InputError(
            f"run {name!r} is one of several jobs ({jobs}); name its folder, such as {output}/{found[0].job}/{name}"
        )
    hint = nearest(name, [manifest.run_id for manifest in runs])
    raise InputError(
        f"{name!r} is no folder of a run and no run_id under {output}{hint}; 'stratoscope runs' lists them"
    )


LOSSES = ("errors", "failed")
"""Counts of what another try might not lose."""


class EqualRunFound(Exception):  # noqa: N818 - nothing went wrong
    """A finished run has the result that another was about to compute."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(f"{manifest.job} run {manifest.run_id} has the same result")
        self.manifest = manifest


def identity(job: str, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> str:
    """Return the digest of all that a run's result follows from.

    Args:
        job: its name.
        settings: the fields that decide the result.
        fingerprints: of its model and data.
    """
    return digest(
        {
            "job": job,
            "settings": settings,
            "fingerprints": fingerprints,
            "code": code_digest(),
            "added": added_digest(),
            "versions": package_versions(),
        }
    )


def equal_run(output: str, job: str, of: str) -> Manifest | None:
    """Return the first finished run of an identity, or None where there is none; one that lost something is none."""
    done = (run.manifest for run in list_runs(output, job) if run.state == "done")
    whole = (m for m in done if not any(m.counts.get(name) for name in LOSSES))
    return next((manifest for manifest in whole if manifest.identity == of), None)
