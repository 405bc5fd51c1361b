"""The CUDA sum over shards: the CPU's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.ops import sum_shards
from tests.cuda.conftest import Device


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 257), (8, 700)])
def test_against_the_cpu(device: Device, shape: tuple[int, int], dtype: Any) -> None:
    rng = np.random.default_rng(shape[1])
    rows, weights = rng.standard_normal(shape).astype(dtype), rng.random(shape[0])
    out = device.backend.zeros(shape[1], dtype)
    found = sum_shards(device.array(rows), device.array(weights), out=out)
    assert found is out
    np.testing.assert_array_equal(device.host(out), sum_shards(rows, weights))
    np.testing.assert_array_equal(device.host(sum_shards(device.array(rows), device.array(weights))), device.host(out))
