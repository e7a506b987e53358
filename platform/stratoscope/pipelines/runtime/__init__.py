"""The life of a run, the same for every job: configuration, context, folder, terminal and trials."""
