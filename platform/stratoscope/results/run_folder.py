"""A run's folder: `<output>/<job>/<run_id>/`."""

import platform
import re
import secrets
from datetime import UTC, datetime

from stratoscope.errors import SHOWN_VALUE, InputError, RunError, shorten
from stratoscope.results.manifest import NAME, Manifest
from stratoscope.results.storage import Storage

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def new_run_id() -> str:
    """Return a run id that begins with the time, so that ids sort by it."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M}-{secrets.token_hex(2)}"


def check_reachable(url: str) -> None:
    """Check, on a worker's node, that the run's folder can be reached.

    Args:
        url: path or URL of the folder.

    Raises:
        RunError: the folder does not exist on this node.
    """
    if not Storage(url).exists(NAME):
        raise RunError(
            f"the run's folder {url} does not exist on node {platform.node()}; on several nodes output has "
            "to be a folder that all nodes share, or an object store such as s3://bucket/runs"
        )


class RunFolder:
    """The folder of one run and its manifest.

    Args:
        output: local path or fsspec URL that holds all runs.
        job: name of the job.
        run_id: name of the run.

    Raises:
        InputError: the run id is not a plain name, or the output cannot be used.
    """

    def __init__(self, output: str, job: str, run_id: str) -> None:
        if not RUN_ID.fullmatch(run_id):
            raise InputError(
                f"run_id {shorten(repr(run_id), SHOWN_VALUE)} must be at most 100 letters, digits, '.', '_' and '-', "
                "begin with a letter or digit, and hold no path separator"
            )
        self.job, self.run_id = job, run_id
        self.storage = Storage(output).child(job, run_id)

    @property
    def url(self) -> str:
        """Path or URL of the folder."""
        return self.storage.url()

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, or None if the run has not started.

        Raises:
            DamagedFileError: the manifest cannot be read.
        """
        try:
            return Manifest.read(self.storage)
        except FileNotFoundError:
            return None

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        self.storage.write(NAME, manifest.to_json())
