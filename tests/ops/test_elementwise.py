"""Operations on each element, in whole vectors and a part of one, against NumPy; also where they bypass the caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet import aligned
from gpunet.ops import batch_norm, batch_norm_backward, leaky_relu, leaky_relu_backward, relu, relu_backward
from gpunet.ops._elementwise import STREAMED_BYTES, Operands, elementwise, is_streamed
from gpunet.ops._numba import jit
from gpunet.ops._simd import VECTOR_BYTES


def _value(of: Operands) -> Any:
    """(a - b) times a factor of the column, plus the first factor of all."""
    product = of.builder.fmul(of.builder.fsub(of.a, of.b), of.factors(1))
    return of.builder.fadd(product, of.constant(0))


_operation = elementwise(_value)


@jit
def run(a: Any, b: Any, factors: Any, y: Any, start: int, rows: int, columns: int, streamed: bool) -> None:
    _operation(a, b, factors, y, start, rows, columns, streamed)


@jit
def may_be_streamed(y: Any, columns: int) -> bool:
    return bool(is_streamed(y, columns))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("columns", [1, 5, 16, 32, 37])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows(dtype: Any, columns: int, streamed: bool) -> None:
    """Nothing before and after them is touched."""
    lanes, rng = VECTOR_BYTES // np.dtype(dtype).itemsize, np.random.default_rng(0)
    columns = columns * lanes if streamed else columns  # whole vectors
    rows, start = 3, 2 * lanes
    a, b = (rng.standard_normal(start + rows * columns + 3).astype(dtype) for _ in range(2))
    factors = rng.standard_normal((2, columns)).astype(dtype)
    y = aligned.empty(2**17 // np.dtype(dtype).itemsize, dtype)  # which begins at a whole vector
    y[:] = 7
    run(a, b, factors.reshape(-1), y, start, rows, columns, streamed)
    inside = slice(start, start + rows * columns)
    wanted = (a - b)[inside].reshape(rows, columns) * factors[1] + factors[0, 0]
    np.testing.assert_array_equal(y[inside].reshape(rows, columns), wanted)
    assert (y[:start] == 7).all() and (y[inside.stop :] == 7).all()


def test_what_is_streamed() -> None:
    size, lanes = STREAMED_BYTES // 4, VECTOR_BYTES // 4
    large = aligned.empty(size + lanes, np.float32)
    assert may_be_streamed(large, lanes) and may_be_streamed(large[:size], lanes)
    assert not may_be_streamed(large[: size - 1], lanes)  # small
    assert not may_be_streamed(large, lanes + 1)  # whose second row does not begin at a whole vector
    assert not may_be_streamed(large[1 : size + 1], lanes)  # nor does the first one


@pytest.mark.parametrize("channels", [48, 50])
def test_large_arrays(channels: int) -> None:
    """Of rows that are whole vectors, and others, with a last chunk that is not whole."""
    rows = STREAMED_BYTES // 4 // channels + 77
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((rows, channels), np.float32) for _ in range(2))
    x[5, 7], x[-1, -1] = np.nan, -0.0
    positive = ~(x <= 0)
    np.testing.assert_array_equal(relu(x), np.where(positive, x, 0))
    np.testing.assert_array_equal(relu_backward(dy, x), np.where(positive, dy, 0))
    slope = np.float32(0.3)
    np.testing.assert_array_equal(leaky_relu(x, 0.3), np.where(x > 0, x, slope * x))
    np.testing.assert_array_equal(leaky_relu_backward(dy, x, 0.3), np.where(x > 0, dy, slope * dy))
    x[5, 7] = 1
    gamma, beta, mean, var = rng.uniform(0.5, 2, (4, channels)).astype(np.float32)
    y, saved = batch_norm(x, gamma, beta, mean.copy(), var.copy(), training=True)
    dx = batch_norm_backward(dy, x, gamma, saved)[0]
    # Part by part, of the same statistics, no array is large.
    parts = np.array_split(np.arange(rows), 3)
    apart = [batch_norm(x[part], gamma, beta, mean, var, training=False) for part in parts]
    expected, fixed = batch_norm(x, gamma, beta, mean, var, training=False)
    np.testing.assert_array_equal(expected, np.concatenate([found for found, _ in apart]))
    gradients = [batch_norm_backward(dy[part], x[part], gamma, fixed)[0] for part in parts]
    np.testing.assert_array_equal(batch_norm_backward(dy, x, gamma, fixed)[0], np.concatenate(gradients))
    centred = (x - saved.mean) * saved.inv_std
    assert np.abs(y - (gamma * centred + beta)).max() < 1e-5
    wanted = gamma * saved.inv_std * (dy - dy.mean(0, dtype=np.float64) - centred * (dy * centred).mean(0))
    assert np.abs(dx - wanted).max() < 1e-5
