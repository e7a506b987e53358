"""Building blocks of report pages that all jobs share: number formats, facts of a run and tables of typed rows."""
