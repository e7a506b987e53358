#!/usr/bin/env python
"""Find layers whose activations differ between wrong and right answers; `--help` lists the options."""

import sys

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    sys.exit(JOBS["hallucination"].run_command(sys.argv[1:]))
