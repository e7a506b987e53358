#!/usr/bin/env python
"""Run the jobs on many models, and compare the results with earlier nights; `--help` lists the options."""

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    JOBS["audit"].main()
