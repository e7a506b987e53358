"""Pipelines: one folder per job, with its flow from the configuration to the tables and the report."""
