#!/usr/bin/env python
"""Fine-tune the layers that hallucinate, or recover a model after layers were dropped; `--help` lists the options."""

import sys

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    sys.exit(JOBS["mitigation"].run_command(sys.argv[1:]))
