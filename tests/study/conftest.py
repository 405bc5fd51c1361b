"""The small data and presets of the tests of runs."""

from tests.experiments.conftest import data, unpublished  # noqa: F401
