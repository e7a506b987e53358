#!/usr/bin/env python
"""Rank the layers of a language model; `--help` lists the options."""

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    JOBS["score"].main()
