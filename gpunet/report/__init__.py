"""Reports: the figures and HTML pages of runs."""
