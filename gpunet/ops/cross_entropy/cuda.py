"""Softmax and cross entropy on the GPU: ``kernels/cross_entropy.cu``.

Labels that are not int32 are converted before the launch; those that int32 cannot hold are not recognised as wrong.
"""

from __future__ import annotations

import numpy as np

from gpunet import cuda
from gpunet.backend import Array

_THREADS = 256
_CLASSES = 4  # of one thread
_WARP = 32
_BLOCK = 512  # threads of a batch's only block, at most
_ITERATIONS = 4  # over rows, of such a block
_MAX_BLOCKS = 1024


def softmax(x: Array, log: bool = False) -> Array:
    x = cuda.contiguous(x)
    y = cuda.empty_like(x)
    classes = x.shape[-1]
    rows, lanes = x.size // classes, _lanes(classes)
    grid = cuda.ceil_div(rows * lanes, _THREADS)
    cuda.launch("cross_entropy", "softmax", grid, _THREADS, x, y, rows, classes, lanes, log, real=x.dtype)
    return y


def log_softmax(x: Array) -> Array:
    return softmax(x, log=True)


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    label_smoothing: float,
    weight: Array | None,
    sample_weight: Array | None,
    gamma: float,
    reduction: str,
) -> tuple[Array, Array]:
    """As on the CPU, but for labels out of range: loss and gradient of their rows are NaN."""
    logits, labels = cuda.contiguous(logits), cuda.converted(labels, np.int32)
    weight, of_rows = (None if array is None else cuda.contiguous(array) for array in (weight, sample_weight))
    (rows, classes), real = logits.shape, logits.dtype
    grid, threads, lanes = _grid(rows, classes)
    weight_sum, scale = None, 1 / rows if reduction == "mean" else 1.0
    if reduction == "mean" and (weight is not None or of_rows is not None):
        weight_sum = cuda.empty((), np.float64, logits)
        weights = labels, weight, of_rows, rows, classes, weight_sum
        cuda.launch("cross_entropy", "label_weights", 1, _BLOCK, *weights, real=real)
    dlogits = cuda.empty_like(logits)
    loss = cuda.empty(rows if reduction == "none" else (), real, logits)
    losses = partial = total = None
    if reduction == "none":
        losses = loss
    elif grid == 1:
        total = loss
    else:
        partial = cuda.empty(grid, np.float64, logits)
    inputs = logits, labels, weight, of_rows, weight_sum, scale, label_smoothing, gamma, rows, classes, lanes
    kernel = "focal_loss" if gamma else "cross_entropy"
    cuda.launch("cross_entropy", kernel, grid, threads, *inputs, dlogits, losses, partial, total, real=real)
    if partial is not None:
        cuda.launch("cross_entropy", "add_losses", 1, _THREADS, partial, grid, weight_sum, scale, loss, real=real)
    return loss, dlogits


def count_correct(logits: Array, labels: Array) -> Array:
    """As on the CPU, but for labels out of range: they are wrong."""
    logits, labels = cuda.contiguous(logits), cuda.converted(labels, np.int32)
    grid, threads, lanes = _grid(*logits.shape)
    count = cuda.empty((), np.int64, logits)
    inputs = logits, labels, *logits.shape, lanes
    if grid == 1:
        cuda.launch("cross_entropy", "count_correct", 1, threads, *inputs, None, count, real=logits.dtype)
        return count
    partial = cuda.empty(grid, np.int32, logits)
    cuda.launch("cross_entropy", "count_correct", grid, threads, *inputs, partial, None, real=logits.dtype)
    cuda.launch("cross_entropy", "add_counts", 1, _THREADS, partial, grid, count, real=logits.dtype)
    return count


def _lanes(classes: int) -> int:
    """Threads of a row."""
    lanes = 1
    while lanes < _WARP and lanes * _CLASSES < classes:
        lanes *= 2
    return lanes


def _grid(rows: int, classes: int) -> tuple[int, int, int]:
    """Blocks, threads of a block and lanes of a row, by the shape alone: the order of the sums depends on them."""
    lanes = _lanes(classes)
    threads = rows * lanes
    if threads <= _ITERATIONS * _BLOCK:
        return 1, min(_BLOCK, _WARP * cuda.ceil_div(threads, _WARP)), lanes
    return min(_MAX_BLOCKS, cuda.ceil_div(threads, _THREADS)), _THREADS, lanes
