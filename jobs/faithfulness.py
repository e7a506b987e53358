#!/usr/bin/env python
"""Evaluate whether forecasts survive other seeds and perturbed inputs; `--help` lists the options."""

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    JOBS["faithfulness"].main()
