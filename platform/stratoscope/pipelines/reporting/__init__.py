"""What the pages and summaries of all jobs are composed of."""
