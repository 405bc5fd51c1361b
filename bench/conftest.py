"""What the benchmarks share: shapes of the network, contestants, and facts about the machine beside each timing."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

# Before an OpenMP library is loaded: contestants in one process must not spin against each other.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

NETWORK = {
    "conv1-1x32@28": (1, 32, 28),
    "conv2-32x64@14": (32, 64, 14),
    "conv3-64x128@7": (64, 128, 7),
    "conv4-128x256@3": (128, 256, 3),
    "conv5-256x512@1": (256, 512, 1),
}
"""Input channels, output channels and map size of the five convolutions of the default CNN."""

BATCH = 32
"""Images of a benchmark's batch. Small, so that the benchmarks double as tests; see ``--bench-batch``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-batch", type=int, default=BATCH, help="images of a batch in benchmarks")


@pytest.fixture
def batch(request: pytest.FixtureRequest) -> int:
    size: int = request.config.getoption("--bench-batch")
    return size


@pytest.fixture
def measure(benchmark: Any) -> Callable[..., Any]:
    """``measure(function, flops=..., bytes_moved=...)``: time it, note rates and the machine, return its result."""

    def run(function: Callable[[], Any], *, flops: int = 0, bytes_moved: int = 0) -> Any:
        result = benchmark(function)
        benchmark.extra_info.update(machine=platform.processor() or platform.machine(), cores=os.cpu_count())
        if benchmark.stats is not None:  # not with --benchmark-disable
            seconds = benchmark.stats.stats.median
            if flops:
                benchmark.extra_info["gflop_per_s"] = round(flops / seconds / 1e9, 1)
            if bytes_moved:
                benchmark.extra_info["gbyte_per_s"] = round(bytes_moved / seconds / 1e9, 1)
        return result

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
