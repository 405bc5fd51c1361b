"""The CUDA activations against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet import ops
from gpunet.ops.activation import reference
from tests.cuda.conftest import Device
from tests.support import assert_close

FORWARD: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}),
    ("leaky_relu", {"slope": 0.1}),
    ("tanh", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
]
IDS = ["relu", "leaky_relu", "tanh", "gelu", "gelu_tanh"]


@pytest.mark.parametrize(("name", "options"), FORWARD, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=8)
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_against_reference(
    device: Device, name: str, options: dict[str, Any], dtype: Any, shape: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, dy = (3 * rng.standard_normal((2, *shape))).astype(dtype)
    y = getattr(ops, name)(device.array(x), **options)
    assert_close(device.host(y), getattr(reference, name)(x, **options), scale=10.0)
    at = device.host(y) if name == "tanh" else x  # tanh's gradient is taken from its output
    dx = getattr(ops, f"{name}_backward")(device.array(dy), device.array(at), **options)
    assert_close(device.host(dx), getattr(reference, f"{name}_backward")(dy, at, **options), scale=10.0)


@pytest.mark.parametrize(("name", "options"), FORWARD, ids=IDS)
def test_more_than_one_block_and_not_contiguous(device: Device, name: str, options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 41, 23)).astype(np.float32).transpose(0, 2, 1)
    y = getattr(ops, name)(device.array(x), **options)
    assert_close(device.host(y), getattr(reference, name)(x, **options), scale=10.0)


@pytest.mark.parametrize(("name", "options"), FORWARD, ids=IDS)
def test_values_that_are_not_finite(device: Device, name: str, options: dict[str, Any]) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    with np.errstate(invalid="ignore"):
        expected = getattr(ops, name)(x, **options)  # the CPU's, which tests/ops holds to PyTorch
        dexpected = getattr(ops, f"{name}_backward")(np.ones_like(x), x, **options)
    np.testing.assert_array_equal(device.host(getattr(ops, name)(device.array(x), **options)), expected)
    dx = getattr(ops, f"{name}_backward")(device.array(np.ones_like(x)), device.array(x), **options)
    np.testing.assert_array_equal(device.host(dx), dexpected)


def test_empty_array(device: Device) -> None:
    assert ops.relu(device.array(np.zeros((0, 3), np.float32))).shape == (0, 3)
