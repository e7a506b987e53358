#!/usr/bin/env python
"""Find the layers of a language model that react to wrong answers; `--help` lists what can be set."""

import sys

from stratoscope.pipelines.hallucination import HallucinationJob
from stratoscope.pipelines.runtime.job import run_from_command_line

if __name__ == "__main__":
    sys.exit(run_from_command_line(HallucinationJob))
