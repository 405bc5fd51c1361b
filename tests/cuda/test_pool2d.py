"""The CUDA pooling against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from gpunet.backend import Array
from gpunet.ops import pool2d
from gpunet.ops.pool2d import reference
from tests.cuda.conftest import Device
from tests.emulator import RUNTIME
from tests.ops.test_pool2d import Case, arrays, cases, geometry, taps
from tests.support import assert_close, one_row

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def check_max(device: Device, x: np.ndarray, dy: np.ndarray, kernel: Any, options: dict[str, Any], terms: int) -> None:
    """Maximum and argmax exactly, the gradient up to the order of its additions."""
    y, argmax = pool2d.max_pool2d(device.array(x), kernel, **options)
    expected, expected_argmax = reference.max_pool2d(x, kernel, **options)
    assert y.dtype == x.dtype and argmax.dtype == expected_argmax.dtype
    np.testing.assert_array_equal(device.host(y), expected)
    np.testing.assert_array_equal(device.host(argmax), expected_argmax)
    wide = device.array(np.repeat(expected_argmax, 2, 3)[..., ::2])
    dx = pool2d.max_pool2d_backward(device.array(dy), wide, x.shape, kernel, **options)
    wanted = reference.max_pool2d_backward(dy.astype(np.float64), expected_argmax, x.shape, kernel, **options)
    assert dx.dtype == x.dtype
    assert_close(device.host(dx), wanted, terms=terms, scale=float(np.abs(dy).max()))


def check_avg(device: Device, x: np.ndarray, dy: np.ndarray, kernel: Any, options: dict[str, Any], terms: int) -> None:
    y = pool2d.avg_pool2d(device.array(x), kernel, **options)
    dx = pool2d.avg_pool2d_backward(device.array(dy), x.shape, kernel, **options)
    assert y.dtype == dx.dtype == x.dtype
    expected = reference.avg_pool2d(x.astype(np.float64), kernel, **options)
    assert_close(device.host(y), expected, terms=terms, scale=float(np.abs(x).max()) or 1.0)
    wanted = reference.avg_pool2d_backward(dy.astype(np.float64), x.shape, kernel, **options)
    assert_close(device.host(dx), wanted, terms=terms, scale=float(np.abs(dy).max()))


@settings(max_examples=20)
@given(case=cases("max"))
def test_max_against_reference(device: Device, case: Case) -> None:
    check_max(device, *arrays(case), case["kernel"], case["options"], taps(case))


@settings(max_examples=20)
@given(case=cases("avg"))
def test_avg_against_reference(device: Device, case: Case) -> None:
    check_avg(device, *arrays({**case, "special": False}), case["kernel"], case["options"], taps(case))


WHOLE, ODD = (2, 6, 8, 8), (2, 7, 5, 6)


@pytest.mark.parametrize(
    ("kind", "shape", "kernel", "options", "kernels"),
    [
        ("max", WHOLE, 2, {}, ["max_pool_2x2", "max_pool_2x2_backward"]),
        ("max", ODD, 2, {}, ["max_pool_2x2", "max_pool_2x2_backward"]),
        ("max", (2, 3, 3, 1), 2, {}, ["max_pool_2x2", "max_pool_2x2_backward"]),
        ("max", (2, 6, 6, 4), 2, {"padding": ((0, 1), (0, 1))}, ["max_pool_2x2", "max_pool_2x2_backward"]),
        ("max", ODD, 2, {"padding": ((0, 1), (0, 1))}, ["max_pool", "max_pool_backward"]),
        ("max", ODD, 2, {"ceil_mode": True}, ["max_pool", "max_pool_backward"]),
        ("max", WHOLE, 2, {"stride": 1}, ["max_pool", "max_pool_backward"]),
        ("max", WHOLE, 2, {"dilation": 2, "stride": 2}, ["max_pool", "max_pool_backward"]),
        ("max", (1, 15, 13, 12), 3, {"stride": 2, "padding": 1}, ["max_pool", "max_pool_backward"]),
        ("avg", WHOLE, 2, {}, ["avg_pool_2x2", "avg_pool_backward"]),
        ("avg", ODD, 2, {}, ["avg_pool_2x2", "avg_pool_backward"]),
        ("avg", WHOLE, 3, {"stride": 1, "padding": 1}, ["avg_pool", "avg_pool_backward"]),
        ("avg", ODD, (7, 5), {}, ["avg_pool", "avg_pool_backward"]),
        ("avg", (2, 9, 8, 36), (9, 8), {}, ["global_avg_pool", "avg_pool_backward"]),
        ("avg", (3, 33, 3, 5), (33, 3), {}, ["global_avg_pool", "avg_pool_backward"]),
    ],
)
@DTYPES
def test_each_kernel(
    device: Device,
    launched: list[str],
    kind: str,
    shape: tuple[int, ...],
    kernel: Any,
    options: dict[str, Any],
    kernels: list[str],
    dtype: Any,
) -> None:
    case = {"shape": shape, "kernel": kernel, "options": options, "dtype": dtype, "seed": 1, "special": kind == "max"}
    check = check_max if kind == "max" else check_avg
    check(device, *arrays(case), kernel, options, taps(case))
    assert launched == kernels


@pytest.mark.parametrize("options", [{}, {"stride": 1}])
@DTYPES
def test_arrays_that_vectors_cannot_read(device: Device, options: dict[str, Any], dtype: Any) -> None:
    """Contiguous arrays of four channels which begin one element off the address of a vector."""
    rng = np.random.default_rng(2)
    shape = 2, 5, 4, 4
    x = rng.standard_normal(shape).astype(dtype)
    dy = rng.standard_normal(geometry(shape, 2, options).y_shape).astype(dtype)

    def shifted(values: np.ndarray) -> Array:
        flat = device.array(np.concatenate([values.ravel()[:1], values.ravel()]))
        return flat[1:].reshape(values.shape)

    expected, expected_argmax = reference.max_pool2d(x, 2, **options)
    y, argmax = pool2d.max_pool2d(shifted(x), 2, **options)
    np.testing.assert_array_equal(device.host(y), expected)
    np.testing.assert_array_equal(device.host(argmax), expected_argmax)
    dx = pool2d.max_pool2d_backward(shifted(dy), shifted(expected_argmax), shape, 2, **options)
    assert_close(device.host(dx), reference.max_pool2d_backward(dy, expected_argmax, shape, 2, **options), terms=4)
    mean = pool2d.avg_pool2d(shifted(x), 2, **options)
    assert_close(device.host(mean), reference.avg_pool2d(x, 2, **options), terms=4)
    dx = pool2d.avg_pool2d_backward(shifted(dy), shape, 2, **options)
    assert_close(device.host(dx), reference.avg_pool2d_backward(dy, shape, 2, **options), terms=4)
    y = pool2d.avg_pool2d(shifted(np.tile(x, (1, 3, 3, 1))), (15, 12))
    assert_close(device.host(y), reference.avg_pool2d(np.tile(x, (1, 3, 3, 1)), (15, 12)), terms=180, scale=1.0)


@pytest.mark.parametrize("kernel", [(16, 16), (16, 17)])
@DTYPES
def test_large_windows(device: Device, kernel: Any, dtype: Any) -> None:
    """Up to 256 taps have an argmax of uint8; long averages do not lose digits."""
    x = np.random.default_rng(0).standard_normal((1, 18, 19, 5)).astype(dtype)
    options = {"stride": (2, 3), "padding": 2}
    check_max(device, x, reference.max_pool2d(x, kernel, **options)[0], kernel, options, 12)
    x += 1000
    y = pool2d.avg_pool2d(device.array(x), kernel, count_include_pad=False, **options)
    expected = reference.avg_pool2d(x.astype(np.longdouble), kernel, count_include_pad=False, **options)
    assert_close(device.host(y), expected.astype(np.float64), c=1.0 if dtype == np.float32 else 8.0)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 7, 5), (2, 9, 8, 64), (1, 5, 64, 33)])
@DTYPES
def test_global_avg(device: Device, shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, dy = (1000 + rng.standard_normal(shape)).astype(dtype), rng.standard_normal((shape[0], shape[3])).astype(dtype)
    y, dx = pool2d.global_avg_pool2d(device.array(x)), pool2d.global_avg_pool2d_backward(device.array(dy), shape)
    assert y.dtype == dx.dtype == dtype
    assert_close(device.host(y), reference.global_avg_pool2d(x.astype(np.float64)))
    assert_close(device.host(dx), reference.global_avg_pool2d_backward(dy, shape))


def test_max_of_nan_infinity_and_padding(device: Device) -> None:
    y, argmax = pool2d.max_pool2d(device.array(one_row(np.nan, 4, np.nan, 5)), (1, 4))
    assert np.isnan(device.host(y)).all() and device.host(argmax).ravel().tolist() == [2]  # the last NaN
    y, argmax = pool2d.max_pool2d(device.array(one_row(-np.inf, -np.inf, -np.inf)), (1, 3), padding=((0, 0), (1, 0)))
    assert device.host(y).ravel().tolist() == [-np.inf] and device.host(argmax).ravel().tolist() == [1]
    # taps at -2 and 1, then at -1 and 2, of a map of one element: neither window meets it
    options = {"dilation": (1, 3), "padding": ((0, 0), (2, 2)), "stride": 1}
    y, argmax = pool2d.max_pool2d(device.array(one_row(3.0)), (1, 2), **options)
    assert device.host(y).ravel().tolist() == [-np.inf, -np.inf] and device.host(argmax).ravel().tolist() == [0, 0]
    dx = pool2d.max_pool2d_backward(device.array(one_row(1, 1)), argmax, (1, 1, 1, 1), (1, 2), **options)
    assert device.host(dx).tolist() == [[[[0.0]]]]


@pytest.mark.parametrize("dy", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"stride": 1}])
def test_gradients_that_are_not_finite_reach_only_the_maximum(
    device: Device, dy: float, options: dict[str, Any]
) -> None:
    x = np.zeros((1, 2, 2, 4), np.float32)
    x[0, 1, 0] = 1
    argmax = pool2d.max_pool2d(device.array(x), 2, **options)[1]
    dx = pool2d.max_pool2d_backward(device.array(np.full((1, 1, 1, 4), dy, np.float32)), argmax, x.shape, 2, **options)
    np.testing.assert_array_equal(device.host(dx), np.where(x == 1, np.float32(dy), np.float32(0)))


@pytest.mark.parametrize("kernel", [(1, 2), (2, 2), (9, 8)])
def test_avg_passes_nan_on(device: Device, kernel: tuple[int, int]) -> None:
    x = np.ones((1, 9, 8, 3))
    x[0, 1, 1, 2] = np.nan
    y = device.host(pool2d.avg_pool2d(device.array(x), kernel))
    assert np.isnan(y).sum() == 1 and np.isnan(y[0, 1 // kernel[0], 0, 2])


@pytest.mark.parametrize("options", [{}, {"stride": 1}])
def test_an_argmax_outside_the_window_is_nobodys(device: Device, options: dict[str, Any]) -> None:
    shape = geometry((1, 5, 5, 4), 2, options).y_shape
    dy, argmax = device.array(np.ones(shape, np.float32)), device.array(np.full(shape, 200, np.uint8))
    assert not device.host(pool2d.max_pool2d_backward(dy, argmax, (1, 5, 5, 4), 2, **options)).any()


def test_bits_do_not_depend_on_the_order_of_threads(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, maps = rng.standard_normal((2, 9, 11, 6), dtype=np.float32), rng.standard_normal((2, 20, 9, 40)).astype("f4")
    options = {"stride": 1, "padding": 1}

    def results() -> list[bytes]:
        y, argmax = pool2d.max_pool2d(device.array(x), 3, **options)
        arrays = [y, argmax, pool2d.max_pool2d_backward(y, argmax, x.shape, 3, **options)]
        arrays += [pool2d.avg_pool2d_backward(y, x.shape, 3, **options), pool2d.avg_pool2d(device.array(x), 3)]
        arrays.append(pool2d.global_avg_pool2d(device.array(maps)))
        return [device.host(array).tobytes() for array in arrays]

    first = results()
    assert results() == first
    monkeypatch.setattr(RUNTIME, "seed", 0)  # the emulator's threads and blocks by number; a GPU knows no such thing
    assert results() == first
