"""Code shared by jobs that run a model over shards of units (prompts or questions) and reduce its activations."""
