#!/usr/bin/env python
"""Evaluate whether forecasts survive other seeds and perturbed inputs; `--help` lists the options."""

import sys

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    sys.exit(JOBS["faithfulness"].run_command(sys.argv[1:]))
