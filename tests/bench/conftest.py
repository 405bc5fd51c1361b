"""What is measured in a process of its own is not one of this run's processes."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_xdist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark would refuse to measure
