"""Pipelines: one folder a job, each the flow from its configuration to its tables and report."""
