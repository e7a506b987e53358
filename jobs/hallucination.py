#!/usr/bin/env python
"""Find layers whose activations differ between wrong and right answers; `--help` lists the options."""

from stratoscope.pipelines.jobs import JOBS

if __name__ == "__main__":
    JOBS["hallucination"].main()
