#!/usr/bin/env python
"""Find layers that a language model can do without; `--help` lists the options."""

import sys

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    sys.exit(JOBS["search"].run_command(sys.argv[1:]))
