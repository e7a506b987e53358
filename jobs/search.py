#!/usr/bin/env python
"""Find layers that a language model can do without; `--help` lists the options."""

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    JOBS["search"].main()
