"""Arrays that begin at a cache line, unless they are small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet import aligned, ops
from gpunet.backend import CPU


@pytest.mark.parametrize("shape", [(), 0, 7, np.int64(7), (0, 3), [5, 3], (2, 3, 4, 5), (300, 700)])
@pytest.mark.parametrize("dtype", [np.float32, "float64", np.dtype(np.uint8), np.int64])
def test_as_numpys(shape: Any, dtype: Any) -> None:
    for ours, numpys in ((aligned.empty, np.empty), (aligned.zeros, np.zeros)):
        found, expected = ours(shape, dtype), numpys(shape, dtype)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.flags.c_contiguous and found.flags.writeable
        assert found.nbytes < aligned.SMALL or found.ctypes.data % aligned.LINE == 0
    assert not found.any()


def test_zeros_of_used_memory() -> None:
    for _ in range(3):
        aligned.empty((100, 100)).fill(1)
        assert not aligned.zeros((100, 100)).any()


def test_memory_lives_as_long_as_the_array() -> None:
    array = aligned.empty(10_000, np.int64)
    array[:] = range(10_000)
    for _ in range(10):
        aligned.empty(10_000, np.int64).fill(-1)
    assert array.tolist() == list(range(10_000))


def test_results_of_ops_are_aligned() -> None:
    x, weight = CPU.zeros((500, 200)), CPU.empty((200, 257))
    y = ops.linear(x, weight)
    for array in (x, weight, y, ops.relu(y), ops.softmax_cross_entropy(y, np.zeros(500, np.int32))[1]):
        assert array.ctypes.data % aligned.LINE == 0
