"""The CUDA linear layer against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.ops.linear import linear, linear_backward, reference
from tests.cuda.conftest import Device
from tests.ops.test_linear import arrays, dtypes, shapes
from tests.support import assert_close, sum_scale


def check_against_reference(
    device: Device, shape: tuple[tuple[int, ...], int, int], dtype: Any, seed: int, relu: bool = False
) -> None:
    x, weight, bias, dy = arrays(shape, dtype, seed)
    exact = [array.astype(np.float64) for array in (x, weight, bias, dy)]
    strided, on_device = device.array(np.repeat(x, 2, axis=-1)[..., ::2]), device.array(weight)
    y = linear(strided, on_device, device.array(bias), relu=relu)
    assert y.dtype == dtype
    wanted_y = reference.linear(*exact[:3], relu=relu)
    assert_close(device.host(y), wanted_y, terms=shape[1] + 1, scale=sum_scale(wanted_y, shape[1] + 1))
    out = device.array(np.empty_like(weight)), device.array(np.empty_like(bias))
    gradients = linear_backward(device.array(dy), strided, on_device, y=y if relu else None, out=out)
    assert gradients[1] is out[0] and gradients[2] is out[1]
    rows = max(1, x.size // shape[1])
    passed = device.host(y) if relu else None  # near 0, rounding may decide on which side y is
    expected = reference.linear_backward(exact[3], exact[0], exact[1], y=passed)
    for actual, wanted, terms in zip(gradients, expected, (shape[2], rows, rows), strict=True):
        assert actual is not None and wanted is not None and actual.dtype == dtype
        assert_close(device.host(actual), wanted, terms=terms, scale=sum_scale(wanted, terms))


@settings(max_examples=25)
@given(shape=shapes, dtype=dtypes, relu=st.booleans(), seed=st.integers(0, 10_000))
def test_against_reference(
    device: Device, shape: tuple[tuple[int, ...], int, int], dtype: Any, relu: bool, seed: int
) -> None:
    check_against_reference(device, shape, dtype, seed, relu)


@pytest.mark.parametrize("shape", [((1,), 512, 10), ((70,), 130, 10), ((33,), 64, 65), ((), 300, 1)])
def test_layers_of_networks(device: Device, shape: tuple[tuple[int, ...], int, int]) -> None:
    check_against_reference(device, shape, np.float32, 3)


def test_needs_and_new_arrays(device: Device) -> None:
    x, weight, bias, dy = (device.array(array) for array in arrays(((4,), 6, 5), np.float32, 0))
    assert linear_backward(dy, x, weight, needs=()) == (None, None, None)
    dx, dweight, dbias = linear_backward(dy, x, weight)
    assert dx is not None and dweight is not None and dbias is not None
    assert dx.shape == x.shape and dweight.shape == weight.shape and dbias.shape == bias.shape
    expected = reference.linear_backward(*(device.host(array).astype(np.float64) for array in (dy, x, weight)))
    for actual, wanted in zip((dx, dweight, dbias), expected, strict=True):
        assert wanted is not None
        assert_close(device.host(actual), wanted, terms=6)
    y = linear(x, weight)
    assert_close(device.host(y), reference.linear(device.host(x), device.host(weight)), terms=6)


@pytest.mark.parametrize("inputs", [5, 40])
def test_no_rows(device: Device, inputs: int) -> None:
    x, weight, dy = (device.array(np.zeros(shape, np.float32)) for shape in ((0, inputs), (inputs, 3), (0, 3)))
    assert linear(x, weight).shape == (0, 3)
    dx, dweight, dbias = linear_backward(dy, x, weight)
    assert dx is not None and dweight is not None and dbias is not None and dx.shape == (0, inputs)
    assert not device.host(dweight).any() and not device.host(dbias).any()
