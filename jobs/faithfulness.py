#!/usr/bin/env python
"""See whether forecasts survive another seed and perturbed inputs; `--help` lists what can be set."""

import sys

from stratoscope.pipelines.faithfulness import FaithfulnessJob
from stratoscope.pipelines.runtime.job import run_from_command_line

if __name__ == "__main__":
    sys.exit(run_from_command_line(FaithfulnessJob))
