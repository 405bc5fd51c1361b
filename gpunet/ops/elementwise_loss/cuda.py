"""Losses of numbers on the GPU: ``kernels/elementwise_loss.cu``."""

from __future__ import annotations

import numpy as np

from gpunet import cuda
from gpunet.backend import Array

_THREADS = 256
_TURNS = 4  # of a thread over elements, at least, before there is another block
_MAX_BLOCKS = 1024


def elementwise_loss(
    kind: int,
    outputs: Array,
    targets: Array,
    delta: float,
    pos_weight: Array | None,
    sample_weight: Array | None,
    reduction: str,
) -> tuple[Array, Array]:
    """As on the CPU."""
    outputs, targets = cuda.contiguous(outputs), cuda.contiguous(targets)
    pos_weight, sample_weight = (
        None if array is None else cuda.contiguous(array) for array in (pos_weight, sample_weight)
    )
    (rows, columns), real = outputs.shape, outputs.dtype
    mean, weight_sum = reduction == "mean", None
    if mean and sample_weight is not None:
        weight_sum = cuda.empty((), np.float64, outputs)
        cuda.launch("elementwise_loss", "sum_weights", 1, _THREADS, sample_weight, rows, weight_sum, real=real)
    scale = 1 / (columns * (rows if weight_sum is None else 1)) if mean else 1.0
    grid = _grid(outputs.size)
    gradient = cuda.empty_like(outputs)
    loss = cuda.empty(outputs.shape if reduction == "none" else (), real, outputs)
    losses = partial = total = None
    if reduction == "none":
        losses = loss
    elif grid == 1:
        total = loss
    else:
        partial = cuda.empty(grid, np.float64, outputs)
    inputs = outputs, targets, sample_weight, pos_weight, weight_sum, scale, kind, delta, outputs.size, columns
    cuda.launch(
        "elementwise_loss", "elementwise_loss", grid, _THREADS, *inputs, gradient, losses, partial, total, real=real
    )
    if partial is not None:
        cuda.launch("elementwise_loss", "add_parts", 1, _THREADS, partial, grid, weight_sum, scale, loss, real=real)
    return loss, gradient


def _grid(elements: int) -> int:
    """Blocks, by the shape alone: the order of the sums depends on them."""
    return min(_MAX_BLOCKS, cuda.ceil_div(elements, _TURNS * _THREADS))
