"""Reports: the figures of a run."""
