"""The CUDA activations against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet import ops
from gpunet.ops import activation
from gpunet.ops.activation import reference
from tests.cuda.conftest import Device
from tests.ops.activations import OPS
from tests.support import assert_close

EACH = pytest.mark.parametrize("name", OPS)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@EACH
@DTYPES
@settings(max_examples=8)
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_against_reference(device: Device, name: str, dtype: Any, shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, dy = (3 * rng.standard_normal((2, *shape))).astype(dtype)
    op = OPS[name]
    y = op.forward(activation, device.array(x))
    assert_close(device.host(y), op.forward(reference, x), scale=10.0)
    dx = op.backward(activation, device.array(dy), device.array(x))
    assert_close(device.host(dx), op.backward(reference, dy, x), scale=10.0)


@EACH
@DTYPES
def test_more_than_one_block_and_not_contiguous(device: Device, name: str, dtype: Any) -> None:
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 41, 23)).astype(dtype).transpose(0, 1, 3, 2)
    op = OPS[name]
    y = op.forward(activation, device.array(x))
    assert_close(device.host(y), op.forward(reference, x), scale=10.0)
    dx = op.backward(activation, device.array(dy), device.array(x))
    assert_close(device.host(dx), op.backward(reference, dy, x), scale=10.0)


@EACH
def test_values_that_are_not_finite(device: Device, name: str) -> None:
    x, op = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32), OPS[name]
    with np.errstate(invalid="ignore"):
        expected = op.forward(activation, x)  # the CPU's, which tests/ops holds to PyTorch
        dexpected = op.backward(activation, np.ones_like(x), x)
    np.testing.assert_array_equal(device.host(op.forward(activation, device.array(x))), expected)
    dx = op.backward(activation, device.array(np.ones_like(x)), device.array(x))
    np.testing.assert_array_equal(device.host(dx), dexpected)


def test_empty_array(device: Device) -> None:
    assert ops.relu(device.array(np.zeros((0, 3), np.float32))).shape == (0, 3)
