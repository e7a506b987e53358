#!/usr/bin/env python
"""Find layers that a language model can do without; `--help` lists what can be set."""

import sys

from stratoscope.pipelines.runtime.job import run_from_command_line
from stratoscope.pipelines.search.targets import Search

if __name__ == "__main__":
    sys.exit(run_from_command_line(Search()))
