"""Looking up runs by name or identity, and reading configurations of runs that other versions made."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from stratoscope.digest import code_digest, digest
from stratoscope.errors import InputError, first_line, nearest, suggest, type_and_message
from stratoscope.extensions import added_digest
from stratoscope.phases import tell
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.option_names import section_class
from stratoscope.results import Manifest, Run, Storage, damaged_table, list_runs, package_versions
from stratoscope.results.manifest import NAME

Section = TypeVar("Section", bound=ConfigSection)
LOSSES = ("errors", "failed")
"""Counts of results that are missing from a run but might succeed in another attempt."""


def open_finished(name: str, output: str, job: str, field: str = "statistics") -> tuple[Storage, Manifest]:
    """Open a finished run that a field of the configuration names.

    Args:
        name: the run's folder or URL, or its run_id under `output`.
        output: folder that holds all runs.
        job: name of the job that the run must belong to.
        field: name of the field, for messages.

    Raises:
        InputError: the run does not exist, belongs to another job, or is not finished.
    """
    by_id = Storage(output).child(job, name) if "/" not in name else None
    for storage in [by_id, Storage(name)]:
        if storage is None or not storage.exists(NAME):
            continue
        manifest = Manifest.read(storage)
        if manifest.job != job:
            raise InputError(f"{field} {name!r} is a run of {manifest.job}, not of {job}")
        if manifest.status != "done":
            raise InputError(f"{field} {name!r} is {manifest.status}, not done; finish it with the same run_id")
        return storage, manifest
    known = Storage(output).child(job).names()
    hint = suggest(name, known, "runs") if known else f"; {output} holds no {job} runs"
    raise InputError(f"{field} {name!r} is no folder of a {job} run and no run_id under {output}{hint}")


def find_run(name: str, output: str, job: str | None = None) -> tuple[Storage, Manifest]:
    """Open a run of any job and status.

    Args:
        name: the run's folder or URL, or its run_id under `output`.
        output: folder that holds all runs.
        job: name of a job, to search only its runs.

    Raises:
        InputError: no run has this name, or several runs have it.
    """
    folder = Storage(name)
    if _holds_run(folder, name):
        return folder, Manifest.read(folder)
    manifests = [run.manifest for run in list_runs(output, job)]
    matches = [manifest for manifest in manifests if manifest.run_id == name]
    if len(matches) == 1:
        return Storage(output).child(matches[0].job, name), matches[0]
    if matches:
        jobs = ", ".join(manifest.job for manifest in matches)
        raise InputError(
            f"run {name!r} is one of several jobs ({jobs}); name its folder, such as {output}/{matches[0].job}/{name}"
        )
    hint = nearest(name, [manifest.run_id for manifest in manifests])
    raise InputError(
        f"{name!r} is no folder of a run and no run_id under {output}{hint}; 'stratoscope runs' lists them"
    )


def _holds_run(folder: Storage, name: str) -> bool:
    """Return whether a folder holds a run.

    Raises:
        InputError: its store cannot be reached.
    """
    try:
        return folder.exists(NAME)
    except Exception as error:  # each store has its own errors
        raise InputError(f"run {name!r} cannot be reached ({type_and_message(error)})") from error


class EqualRunFound(Exception):  # noqa: N818 - not an error
    """A finished run already has the result that this run would compute."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(f"{manifest.job} run {manifest.run_id} has the same result")
        self.manifest = manifest


def identity(job: str, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> str:
    """Return the digest of everything that determines a run's result.

    Args:
        job: name of the job.
        settings: fields that decide the result.
        fingerprints: fingerprints of the model and the data.
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


def equal_run(output: str, job: str, run_identity: str) -> Manifest | None:
    """Return the first finished run with an identity that has all results and readable tables, or None."""
    return _first_complete(output, job, lambda manifest: manifest.identity == run_identity)


def run_of_equal_request(output: str, job: str, request: str | None) -> Manifest | None:
    """Return the first finished run with a request that has all results and readable tables, or None."""
    if request is None:
        return None
    return _first_complete(output, job, lambda manifest: manifest.request == request)


def _first_complete(output: str, job: str, is_equal: Callable[[Manifest], bool]) -> Manifest | None:
    for run in list_runs(output, job):
        manifest = run.manifest
        if run.state != "done" or not is_equal(manifest) or any(manifest.counts.get(name) for name in LOSSES):
            continue
        damaged = damaged_table(Storage(output).child(job, manifest.run_id))
        if damaged is None:
            return manifest
        tell(f"{damaged} cannot be read; its run is not used again")
    return None


def recorded_settings(config_class: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings in a manifest that decide the run's result, as plain values by dotted name.

    The configuration may be from another version. Missing fields get their defaults, and fields that this version does
    not know keep their values (see `unknown_fields`).

    Args:
        config_class: the job's configuration class.
        values: the configuration in the manifest.
        prefix: dotted name of the section that holds the values, with a trailing dot.
    """
    settings: dict[str, Any] = {prefix + name: value for name, value in _unknown(config_class, values)}
    for name, field in config_class.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("affects_result") is False:
            continue
        value = values[name] if name in values else _default(field)
        section = section_class(field.annotation)
        if section is not None and isinstance(value, Mapping):
            settings |= recorded_settings(section, value, f"{prefix}{name}.")
        elif section is not None and isinstance(value, list):
            settings[prefix + name] = [recorded_settings(section, item) for item in value]
        else:
            settings[prefix + name] = value
    return settings


def unknown_fields(config_class: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names in a manifest's configuration that this version does not know."""
    yield from (prefix + name for name, _ in _unknown(config_class, values))
    for name, field in config_class.model_fields.items():
        section, value = section_class(field.annotation), values.get(name)
        for item in value if isinstance(value, list) else [value]:
            if section is not None and isinstance(item, Mapping):
                yield from unknown_fields(section, item, f"{prefix}{name}.")


@contextmanager
def refuse_unreadable(run: Run) -> Iterator[None]:
    """Refuse a run of another version with a one-line message if the block cannot read it.

    Raises:
        InputError: a different code version made the run, and the run lacks something that the block needs.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, FileNotFoundError) as error:
        if run.manifest.code == code_digest():
            raise
        raise InputError(
            f"{run.url}, made by {version_of(run.manifest)}, cannot be read by this version "
            f"({type(error).__name__}: {first_line(error)}); its page is {run.report_path}"
        ) from error


def version_of(manifest: Manifest) -> str:
    """Return the version of the package that made a run, as text for messages."""
    return f"stratoscope {manifest.versions.get('stratoscope', 'of an unknown version')}"


def _unknown(config_class: type[BaseModel], values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in values.items() if name not in config_class.model_fields)


def _default(field: FieldInfo) -> Any:
    """Return a field's default as a plain value, or None if it has none."""
    return None if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))
