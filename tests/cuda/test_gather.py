"""The CUDA batch: the CPU's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from gpunet.errors import ConfigError
from gpunet.ops.gather import gather_batch, gather_targets, reference
from tests.cuda.conftest import Device
from tests.ops.test_gather import data_sets, largest_term
from tests.support import assert_close

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def check(
    device: Device, images: np.ndarray, labels: np.ndarray, order: np.ndarray, arguments: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The batch of the device, which is that of the CPU."""
    on_device = {
        name: device.array(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()
    }
    x, y = gather_batch(device.array(images), device.array(labels), device.array(order), **on_device)
    expected, expected_labels = gather_batch(images, labels, order, **arguments)
    assert x.dtype == expected.dtype and y.dtype == np.int32
    np.testing.assert_array_equal(device.host(x), expected)
    np.testing.assert_array_equal(device.host(y), expected_labels)
    return device.host(x), device.host(y)


@settings(max_examples=30)
@given(data_set=data_sets())
def test_against_cpu_and_reference(
    device: Device, data_set: tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]
) -> None:
    images, labels, order, arguments = data_set
    x, y = check(device, images, labels, order, arguments)
    expected, expected_labels = reference.gather_batch(images, labels, order, **arguments)
    assert_close(x, expected, scale=largest_term(arguments) if images.dtype == np.uint8 else None)
    np.testing.assert_array_equal(y, expected_labels)


@DTYPES
def test_rows_of_several_blocks(device: Device, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 31, 37, 3), dtype=np.uint8)  # 3441 elements an image
    scale, offset = rng.standard_normal((31, 37, 3)).astype(dtype), rng.standard_normal((1, 1, 3)).astype(dtype)
    options = {"flip": True, "shift": 9, "cutout": 11, "seed": 2**60 + 1, "step": np.array([77]), "dtype": dtype}
    order, labels = np.array([4, 0, 2, 2, 1, 3]), np.arange(10, 15, dtype=np.int32)
    check(device, images, labels, order, {"start": np.array([1]), "size": 3, **options})
    check(device, images, labels, order, {"start": 0, "size": 3, "scale": scale, "offset": offset, **options})
    check(device, images, labels, order, {"start": 1, "size": 2, "first_row": 3, **options})
    for kind in (np.float32, np.float64):
        features = rng.standard_normal((5, 2100)).astype(kind)
        check(device, features, labels, order, {"start": 2, "size": 4, "dtype": dtype})


def test_captured(device: Device) -> None:
    """Start and step are read at each replay, the step modulo 2**32."""
    images = np.random.default_rng(1).integers(0, 256, (8, 5, 5, 1), dtype=np.uint8)
    labels, order = np.arange(8, dtype=np.int32), np.arange(8)[::-1].copy()
    arrays = device.array(images), device.array(labels), device.array(order)
    start, step = device.array(np.array([0])), device.array(np.array([0]))
    batches = []
    run = device.backend.capture(
        lambda: batches.append(gather_batch(*arrays, start=start, size=2, flip=True, shift=2, step=step))
    )
    for i in range(4):
        start[...], step[...] = 2 * i, 2**32 + 1 + i
        run()
        expected, expected_labels = gather_batch(
            images, labels, order, start=2 * i, size=2, flip=True, shift=2, step=1 + i
        )
        x, y = batches[-1]
        np.testing.assert_array_equal(device.host(x), expected)
        np.testing.assert_array_equal(device.host(y), expected_labels)
    assert len(batches) == 2


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_order_out_of_range_reads_nothing(device: Device, kind: Any) -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 4, 5, 2)).astype(kind)
    order, labels = np.array([2, 3, -1, 2**40, -(2**63), 0]), np.array([7, 8, 9], np.int32)
    x, y = gather_batch(device.array(images), device.array(labels), device.array(order), start=0, size=6)
    assert device.host(y).tolist() == [9, -1, -1, -1, -1, 7]
    assert np.isfinite(device.host(x)).all()
    expected, _ = gather_batch(images, labels, np.array([2, 0]), start=0, size=2)
    np.testing.assert_array_equal(device.host(x)[[0, 5]], expected)


@pytest.mark.parametrize("start", [-1, 3, 2**63 - 1, -(2**63)])
def test_start_out_of_range_reads_nothing(device: Device, start: int) -> None:
    images, labels, order = np.zeros((5, 2, 2, 1), np.uint8), np.arange(5, dtype=np.int32), np.arange(5)
    arrays = device.array(images), device.array(labels), device.array(order)
    x, y = gather_batch(*arrays, start=device.array(np.array([start])), size=3)
    assert device.host(y).tolist() == [-1, -1, -1]
    assert np.isfinite(device.host(x)).all()


def test_a_nan_in_the_scale_reaches_empty_pixels(device: Device) -> None:
    images, scale = np.ones((1, 3, 3, 1), np.uint8), np.full((1, 1, 1), np.nan, np.float32)
    arrays = device.array(images), device.array(np.zeros(1, np.int32)), device.array(np.zeros(1, np.int64))
    x, _ = gather_batch(*arrays, start=0, size=1, scale=device.array(scale), shift=1, cutout=2)
    assert np.isnan(device.host(x)).all()


def test_no_images(device: Device) -> None:
    arrays = (
        device.array(np.zeros((0, 2), np.float32)),
        device.array(np.zeros(0, np.int32)),
        device.array(np.zeros(1, int)),
    )
    with pytest.raises(ConfigError, match=r"order must hold numbers in \[0, 0\)"):
        gather_batch(*arrays, start=0, size=1)


@DTYPES
@pytest.mark.parametrize("shape", [(7, 1), (50, 3), (40, 700)])
def test_targets(device: Device, dtype: Any, shape: tuple[int, int]) -> None:
    """Of one block and of several: the CPU's, and read when the step is replayed."""
    rng = np.random.default_rng(0)
    targets, order = rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[0], 30)
    start, batches = device.array(np.array([2])), []
    arrays = device.array(targets), device.array(order)
    run = device.backend.capture(lambda: batches.append(gather_targets(*arrays, start=start, size=11)))
    for first in (2, 0, 19):
        start[...] = first
        run()
        y = device.host(batches[-1])
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, gather_targets(targets, order, start=first, size=11))
        np.testing.assert_array_equal(y, targets[order[first : first + 11]])


@DTYPES
def test_targets_out_of_range_are_nan(device: Device, dtype: Any) -> None:
    targets = device.array(np.arange(6, dtype=dtype).reshape(3, 2))
    order = device.array(np.array([2, 3, -1, 2**40, 0]))
    y = device.host(gather_targets(targets, order, start=0, size=5))
    np.testing.assert_array_equal(y, np.array([[4, 5], *[[np.nan] * 2] * 3, [0, 1]], dtype))
    for start in (-1, 4, 2**63 - 1):
        y = device.host(gather_targets(targets, order, start=device.array(np.array([start])), size=2))
        assert np.isnan(y).all()
