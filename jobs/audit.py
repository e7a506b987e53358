#!/usr/bin/env python
"""Look into many models and forecasters, and compare with the nights before; `--help` lists what can be set."""

import sys

from stratoscope.pipelines.audit import AuditJob
from stratoscope.pipelines.runtime.job import run_from_command_line

if __name__ == "__main__":
    sys.exit(run_from_command_line(AuditJob))
