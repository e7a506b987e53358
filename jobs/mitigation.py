#!/usr/bin/env python
"""Mend a language model in its hallucinating layers, or heal a pruned one; `--help` lists what can be set."""

import sys

from stratoscope.pipelines.mitigation import MitigationJob
from stratoscope.pipelines.runtime.job import run_from_command_line

if __name__ == "__main__":
    sys.exit(run_from_command_line(MitigationJob))
