"""The search for layers that a model can do without."""
