"""What models are trained for."""

CLASSIFICATION, REGRESSION, MULTILABEL = "classification", "regression", "multilabel"
TASKS = (CLASSIFICATION, REGRESSION, MULTILABEL)
"""One class of several; numbers; labels, each of which may hold or not."""
