"""The process of a stage: `python -m stratoscope.pipelines.audit.stage_process PARENT STAGE --config FILE`."""

import ctypes
import os
import signal
import sys

from stratoscope.errors import EXIT_FAILED
from stratoscope.pipelines.audit.stages import STAGES
from stratoscope.pipelines.runtime.launch import run_from_command_line
from stratoscope.process import end_process

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl that sets the signal that the process receives when its parent dies."""


def main() -> int:
    """Run the job of a stage for as long as the audit that started it is alive."""
    parent, stage, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        # A later start resumes a killed audit. A stage that outlived it would hold the lease on the run's folder.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):
            return EXIT_FAILED
    return run_from_command_line(STAGES[stage].job, arguments)


if __name__ == "__main__":
    end_process(main())
