"""The tables of all jobs: one row type per table, which states its columns, their types and their meaning."""
