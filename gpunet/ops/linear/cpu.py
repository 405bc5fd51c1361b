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
    """`array` as a contiguous matrix whose rows are its last axis."""
    array = np.ascontiguousarray(array)
    return array if array.ndim == 2 else array.reshape(-1, array.shape[-1])


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    y = matmul(_matrix(x), np.ascontiguousarray(weight), bias=bias, relu=relu)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[1])


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
    drows = _matrix(dy)
    dx = dweight = dbias = None
    if y is not None:
        drows, dbias = _before_relu(drows, _matrix(y), out[1])
    elif "bias" in needs:
        dbias = column_sums(drows, out[1])
    if "x" in needs:
        dx = matmul(drows, np.ascontiguousarray(weight), trans_b=True)
        if x.ndim != 2:
            dx = dx.reshape(x.shape)
    if "weight" in needs:
        dweight = matmul(_matrix(x), drows, trans_a=True, out=out[0])
    return dx, dweight, dbias if "bias" in needs else None
