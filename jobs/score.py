#!/usr/bin/env python
"""Rank the layers of a language model; `--help` lists what can be set."""

import sys

from stratoscope.pipelines.runtime.job import run_from_command_line
from stratoscope.pipelines.score import ScoreJob

if __name__ == "__main__":
    sys.exit(run_from_command_line(ScoreJob))
