"""Reports: the figures and HTML pages of runs, and the table of the classes."""

from gpunet.report import figures
from gpunet.report.class_report import ClassReport, classification_report

__all__ = ["ClassReport", "classification_report", "figures"]
