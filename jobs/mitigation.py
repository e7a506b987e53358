#!/usr/bin/env python
"""Fine-tune the layers that hallucinate, or recover a model after layers were dropped; `--help` lists the options."""

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    JOBS["mitigation"].main()
