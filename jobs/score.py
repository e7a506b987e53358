#!/usr/bin/env python
"""Rank the layers of a language model; `--help` lists the options."""

import sys

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    sys.exit(JOBS["score"].run_command(sys.argv[1:]))
