"""The option `job` of the commands that show runs."""

from stratoscope.errors import InputError, suggest
from stratoscope.pipelines.jobs import JOBS, plugin_jobs
from stratoscope.results import Storage


def check_job(name: str | None, output: str) -> None:
    """Check that a job exists: in this package, in another installed package, or as a folder of runs in the output.

    Raises:
        InputError: the job does not exist, or the output cannot be used.
    """
    if name is None or name in JOBS:
        return
    known = {*JOBS, *plugin_jobs(), *Storage(output).names()}
    if name not in known:
        raise InputError(f"job {name!r} is unknown{suggest(name, known, 'jobs')}")
