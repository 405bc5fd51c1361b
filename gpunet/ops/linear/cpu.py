"""The linear op on the CPU: products in register tiles over blocks of rows, in parallel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpunet.ops._columns import sum_before_relu
from gpunet.ops._matmul import matmul
from gpunet.ops._numba import jit
from gpunet.ops._reduce import CHUNK_ROWS, column_sums
from gpunet.ops.activation import cpu as activation


def _matrix(array: np.ndarray) -> np.ndarray:
    """`array` as a matrix whose rows are its last axis."""
    return array.reshape(-1, array.shape[-1])


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    if x.ndim == 2:
        return matmul(x, weight, bias=bias, relu=relu)
    return matmul(_matrix(x), weight, bias=bias, relu=relu).reshape(*x.shape[:-1], weight.shape[1])


@jit
def _relu_backward_and_sums(dy, y, masked, total):
    """The gradient before the ReLU, in `masked`, and its column sums, as those of :func:`column_sums`."""
    rows, columns = dy.shape
    flat_dy, flat_y, flat_masked = dy.reshape(-1), y.reshape(-1), masked.reshape(-1)
    sum_before_relu(flat_dy, flat_y, flat_masked, 0, columns, rows, columns, total, 0)


def _before_relu(dy: np.ndarray, y: np.ndarray, total: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The gradient before the ReLU, and its column sums."""
    if len(dy) > CHUNK_ROWS:
        masked = activation.relu_backward(dy, y)
        return masked, column_sums(masked, total)
    masked, total = np.empty_like(dy), np.empty(dy.shape[1], dy.dtype) if total is None else total
    _relu_backward_and_sums(dy, y, masked, total)
    return masked, total


def linear_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    y: np.ndarray | None,
    needs: Sequence[str],
    out: tuple[np.ndarray | None, np.ndarray | None],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    if x.ndim != 2:
        y = y if y is None else _matrix(y)
        dx, dweight, dbias = linear_backward(_matrix(dy), _matrix(x), weight, y, needs, out)
        return dx if dx is None else dx.reshape(x.shape), dweight, dbias
    dx = dweight = dbias = None
    if y is not None:
        dy, dbias = _before_relu(np.ascontiguousarray(dy), np.ascontiguousarray(y), out[1])
    elif "bias" in needs:
        dbias = column_sums(np.ascontiguousarray(dy), out[1])
    if "x" in needs:
        dx = matmul(dy, weight, trans_b=True)
    if "weight" in needs:
        dweight = matmul(x, dy, trans_a=True, out=out[0])
    return dx, dweight, dbias if "bias" in needs else None
