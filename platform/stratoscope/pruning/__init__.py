"""Pruning: which layers to drop, searched from scores and from evaluations. No Ray, no files."""
