"""The linear op on the CPU: products in register tiles over blocks of rows, in parallel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.checks import FLOAT_DTYPES
from gpunet.ops._columns import sum_before_relu
from gpunet.ops._matmul import RELU, TRANS_A, TRANS_B, Product, matmul, product
from gpunet.ops._numba import jit
from gpunet.ops._reduce import CHUNK_ROWS, column_sums
from gpunet.ops.activation import cpu as activation

Shape = tuple[int, ...]
Out = tuple[np.ndarray | None, np.ndarray | None]
Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]
Backward = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, Out], Gradients]


@functools.lru_cache(maxsize=1024)
def forward_of(x: Shape, weight: Shape, bias: Shape, dtype: Any, relu: bool) -> Product | None:
    """What computes ``linear(x, weight, bias)`` of arrays of these shapes, all of this dtype.

    It is made once: to check small arrays at each call would take longer than the product. None if the shapes do not
    fit each other, or are not what most calls have.
    """
    if not _are_plain(x, weight, dtype) or bias != weight[1:]:
        return None
    return product((x[0], x[1]), (weight[0], weight[1]), RELU if relu else 0, True, dtype)


def _are_plain(x: Shape, weight: Shape, dtype: Any) -> bool:
    """Whether they are matrices of floats that are not empty, and can be multiplied."""
    return len(x) == len(weight) == 2 and x[1] == weight[0] and min(*x, *weight) > 0 and dtype in FLOAT_DTYPES


def _matrix(array: np.ndarray) -> np.ndarray:
    """`array` as a matrix whose rows are its last axis."""
    return array.reshape(-1, array.shape[-1])


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    y = matmul(_matrix(x), weight, bias=bias, relu=relu)
    return y.reshape(*x.shape[:-1], weight.shape[1])


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
    masked, total = aligned.empty_like(dy), np.empty(dy.shape[1], dy.dtype) if total is None else total
    _relu_backward_and_sums(dy, y, masked, total)
    return masked, total


@functools.lru_cache(maxsize=1024)
def backward_of(dy: Shape, x: Shape, weight: Shape, dtype: Any, needs: tuple[str, ...]) -> Backward | None:
    """Likewise what computes ``linear_backward``: ``run(dy, x, weight, y, out)``, `y` and `out` as there."""
    known = type(needs) is tuple and {"x", "weight", "bias"}.issuperset(needs)
    if not known or not _are_plain(x, weight, dtype) or dy != (x[0], weight[1]):
        return None
    rows, (inputs, outputs) = x[0], weight
    of_x = product((rows, outputs), (inputs, outputs), TRANS_B, False, dtype) if "x" in needs else None
    of_weight = product((rows, inputs), (rows, outputs), TRANS_A, False, dtype) if "weight" in needs else None
    of_bias = "bias" in needs
    if of_weight is not None and needs == ("weight",):

        def run_of_weight(
            dy: np.ndarray, x: np.ndarray, weight: np.ndarray, y: np.ndarray | None, out: Out
        ) -> Gradients:
            return (None, of_weight(x, dy, None, out[0]), None) if y is None else run(dy, x, weight, y, out)

    def run(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, y: np.ndarray | None, out: Out) -> Gradients:
        dbias = None
        if y is not None:
            dy, dbias = _before_relu(contiguous(dy), contiguous(y), out[1])
        elif of_bias:
            dbias = column_sums(contiguous(dy), out[1])
        dx = None if of_x is None else of_x(dy, weight)
        dweight = None if of_weight is None else of_weight(x, dy, None, out[0])
        return dx, dweight, dbias if of_bias else None

    return run if of_weight is None or needs != ("weight",) else run_of_weight


def linear_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, y: np.ndarray | None, needs: Sequence[str], out: Out
) -> Gradients:
    dy_rows, x_rows, y = _matrix(dy), _matrix(x), None if y is None else _matrix(y)
    run = backward_of(dy_rows.shape, x_rows.shape, weight.shape, x.dtype, tuple(needs))
    assert run is not None  # the shapes were checked
    dx, dweight, dbias = run(dy_rows, x_rows, weight, y, out)
    return None if dx is None else dx.reshape(x.shape), dweight, dbias
