"""Fixtures of the benchmarks: the network's shapes, the batch size, and the comparison of implementations."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.machine import SPIN

# Contestants in the same process must not steal each other's cores by spinning. The variables are read when a library
# is loaded, so `make bench` sets them for the whole process; this is for running pytest directly.
for name, value in SPIN.items():
    os.environ.setdefault(name, value)

NETWORK = {
    "conv1-1x32@28": (1, 32, 28),
    "conv2-32x64@14": (32, 64, 14),
    "conv3-64x128@7": (64, 128, 7),
    "conv4-128x256@3": (128, 256, 3),
    "conv5-256x512@1": (256, 512, 1),
}
"""Input channels, output channels and map size of the five convolutions of the default CNN."""

BATCH = 4
"""Default batch size. Small, so that the benchmarks double as tests; see ``--bench-batch``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-batch", type=int, default=BATCH, help="batch size of the benchmarks")


@pytest.fixture
def batch(request: pytest.FixtureRequest) -> int:
    size: int = request.config.getoption("--bench-batch")
    return size


@pytest.fixture(scope="session")
def contestants() -> Any:
    from bench.contest import Contest  # not before the environment above is set

    return Contest()


@pytest.fixture
def contest(contestants: Any, benchmark: Any) -> Callable[..., None]:
    """``contest(problem, implementation)``: check and time one implementation, see :mod:`bench.contest`."""
    return lambda problem, implementation: contestants.run(problem, implementation, benchmark)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
