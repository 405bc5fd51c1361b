"""The CUDA dropout: mask and output are the CPU's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from gpunet.ops.dropout import dropout, dropout_backward, reference
from tests.cuda.conftest import Device
from tests.ops.test_dropout import configurations
from tests.support import assert_close

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
KEY: dict[str, Any] = {"seed": 2**40 + 3, "stream": 17}


def check(device: Device, x: np.ndarray, p: float, key: dict[str, Any]) -> None:
    on_device = key | {"step": device.array(key["step"]) if isinstance(key["step"], np.ndarray) else key["step"]}
    y, mask = dropout(device.array(x), p, **on_device)
    expected, expected_mask = dropout(x, p, **key)
    assert y.dtype == x.dtype and mask.dtype == np.uint8
    np.testing.assert_array_equal(device.host(mask), expected_mask)
    np.testing.assert_array_equal(device.host(y), expected)
    slow, slow_mask = reference.dropout(x, p, **key)
    np.testing.assert_array_equal(device.host(mask), slow_mask)
    assert_close(device.host(y), slow)
    dy = np.asarray(np.flip(expected))  # a view with negative strides
    dx = dropout_backward(device.array(dy), mask, p)
    np.testing.assert_array_equal(device.host(dx), dropout_backward(dy, expected_mask, p))


@settings(max_examples=20)
@given(configuration=configurations())
def test_against_cpu_and_reference(device: Device, configuration: tuple[np.ndarray, float, dict[str, Any]]) -> None:
    check(device, *configuration)


@DTYPES
@pytest.mark.parametrize("size", [1023, 1024, 1025, 2051])
def test_several_blocks(device: Device, size: int, dtype: Any) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    check(device, x, 0.3, KEY | {"step": np.array(9)})


@pytest.mark.parametrize("first", [1, 2, 3, 4, 2**40 + 7])
def test_a_part_of_an_array(device: Device, first: int) -> None:
    x = np.random.default_rng(first).standard_normal(1027).astype(np.float32)
    check(device, x, 0.3, KEY | {"step": np.array(9), "first_element": first})


@DTYPES
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_arrays_that_start_anywhere(device: Device, offset: int, dtype: Any) -> None:
    """A contiguous view need not start at a multiple of 16 bytes, which vectors demand."""
    whole = np.random.default_rng(1).standard_normal(40).astype(dtype)
    y, mask = dropout(device.array(whole)[offset:], 0.5, step=1, **KEY)
    expected, expected_mask = dropout(whole[offset:], 0.5, step=1, **KEY)
    np.testing.assert_array_equal(device.host(y), expected)
    np.testing.assert_array_equal(device.host(mask), expected_mask)
    dx = dropout_backward(device.array(whole)[offset:], mask, 0.5)
    np.testing.assert_array_equal(device.host(dx), dropout_backward(whole[offset:], expected_mask, 0.5))
    dx = dropout_backward(y[1:], mask[1:], 0.5)
    np.testing.assert_array_equal(device.host(dx), dropout_backward(expected[1:], expected_mask[1:], 0.5))


def test_threshold_is_floor_of_p(device: Device) -> None:
    # Random123's first vector; a word equal to the threshold is kept
    for i, word in enumerate((0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)):
        for p, kept in ((word, 1), (word + 0.5, 1), (word + 1, 0)):
            _, mask = dropout(device.array(np.ones(4)), p / 2**32, seed=0, step=0, stream=0)
            assert device.host(mask)[i] == kept


def test_nan_and_infinity(device: Device) -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 1.0], np.float32), (9, 7))
    with np.errstate(invalid="ignore"):
        expected, expected_mask = dropout(x, 0.5, step=1, **KEY)
        expected_dx = dropout_backward(x, expected_mask, 0.5)
    y, mask = dropout(device.array(x), 0.5, step=1, **KEY)
    np.testing.assert_array_equal(device.host(y), expected)
    np.testing.assert_array_equal(device.host(dropout_backward(device.array(x), mask, 0.5)), expected_dx)


def test_step_is_read_modulo_two_to_the_32(device: Device) -> None:
    x = np.ones(50, np.float32)
    _, expected = dropout(x, 0.5, step=7, **KEY)
    for step in (np.array([7]), np.array(7, np.uint8), np.array([3 * 2**32 + 7]), np.array([7 - 2**32])):
        _, mask = dropout(device.array(x), 0.5, step=device.array(step), **KEY)
        np.testing.assert_array_equal(device.host(mask), expected)


def test_captured(device: Device) -> None:
    x, step, results = np.ones((7, 9), np.float32), device.array(np.array([0])), []
    x_device = device.array(x)

    def run() -> None:
        y, mask = dropout(x_device, 0.25, step=step, **KEY)
        results.append((mask, dropout_backward(y, mask, 0.25)))

    captured = device.backend.capture(run)
    for i in range(5, 9):
        step[...] = i
        captured()
        y, mask = dropout(x, 0.25, step=i, **KEY)
        np.testing.assert_array_equal(device.host(results[-1][0]), mask)
        np.testing.assert_array_equal(device.host(results[-1][1]), dropout_backward(y, mask, 0.25))
    assert len(results) == 2


def test_empty_array(device: Device) -> None:
    y, mask = dropout(device.array(np.ones((0, 3), np.float32)), 0.5, step=1, **KEY)
    assert y.shape == mask.shape == dropout_backward(y, mask, 0.5).shape == (0, 3)
