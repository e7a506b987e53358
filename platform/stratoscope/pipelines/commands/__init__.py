"""The commands that show finished runs: report, compare, history and runs."""
