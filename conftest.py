"""Settings of every run of pytest, of the tests and of the benchmarks."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Run each benchmark once, as a test, unless they are asked for; pytest-benchmark need not be there."""
    if config.pluginmanager.hasplugin("benchmark"):
        config.option.benchmark_disable = not config.option.benchmark_enable
