"""The process of a stage: `python -m stratoscope.pipelines.audit.stage_process PARENT STAGE --config FILE`."""

import ctypes
import os
import signal
import sys

from stratoscope.errors import EXIT_FAILED
from stratoscope.pipelines.audit.stages import STAGES
from stratoscope.pipelines.runtime.job import run_from_command_line

DIES_WITH_PARENT = 1
"""Of Linux's prctl: the signal that comes when the parent is gone."""


def main() -> int:
    """Run a stage's job, for as long as the audit that began it is there."""
    parent, stage, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        # A run that was killed goes on in a later start; one without an audit would hold its folder against that.
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != int(parent):
            return EXIT_FAILED
    return run_from_command_line(STAGES[stage].job, arguments)


if __name__ == "__main__":
    sys.exit(main())
