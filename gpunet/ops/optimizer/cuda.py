"""The optimiser's updates on the GPU: one launch each of ``kernels/optimizer.cu``, two for a norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import cuda
from gpunet.backend import Array

_THREADS = 256
_PARAMETERS = 4  # of one thread at a time
_MAX_BLOCKS = 512
_NO_STEP = -1.0


def gradient_scale(grads: Array, loss: Array, max_norm: float) -> tuple[Array, Array]:
    scale, norm = cuda.empty((), grads.dtype, grads), cuda.empty((), grads.dtype, grads)
    partial, count = None, 0
    if max_norm:
        grads, count = cuda.contiguous(grads), _grid(grads)
        partial = cuda.empty(count, np.float64, grads)
        cuda.launch("optimizer", "sums_of_squares", count, _THREADS, grads, grads.size, partial, real=grads.dtype)
    losses = (loss, None) if loss.dtype == np.float32 else (None, loss)
    arguments = partial, count, *losses, max_norm, scale, norm
    cuda.launch("optimizer", "gradient_scale", 1, _THREADS, *arguments, real=grads.dtype)
    return scale, norm


def sgd_update(
    params: Array,
    grads: Array,
    velocity: Array | None,
    lr: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_size: int,
    scale: Any,
) -> None:
    buffers = params, cuda.contiguous(grads), velocity if momentum else None, params.size, decay_size
    numbers = *cuda.scalar(lr, np.float64), momentum, nesterov, weight_decay, *_scale(scale, params)
    cuda.launch("optimizer", "sgd_update", _grid(params), _THREADS, *buffers, *numbers, real=params.dtype)


def adam_update(
    params: Array,
    grads: Array,
    moment1: Array,
    moment2: Array,
    lr: Any,
    step: Any,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    decay_size: int,
    scale: Any,
) -> None:
    buffers = params, cuda.contiguous(grads), moment1, moment2, params.size, decay_size
    numbers = *cuda.scalar(lr, np.float64), *cuda.scalar(step, np.int64)
    options = beta1, beta2, eps, weight_decay, decoupled, *_scale(scale, params)
    cuda.launch("optimizer", "adam_update", _grid(params), _THREADS, *buffers, *numbers, *options, real=params.dtype)


def ema_update(average: Array, values: Array, decay: float, step: Any) -> None:
    number = cuda.scalar(_NO_STEP if step is None else step, np.int64)
    arguments = average, cuda.contiguous(values), average.size, decay, *number
    cuda.launch("optimizer", "ema_update", _grid(average), _THREADS, *arguments, real=average.dtype)


def _scale(scale: Any, params: Array) -> tuple[Array | None, Any]:
    return cuda.scalar(1.0 if scale is None else scale, params.dtype)


def _grid(buffer: Array) -> int:
    """By the size alone: the order of the norm's sum depends on it."""
    return min(_MAX_BLOCKS, cuda.ceil_div(buffer.size, _PARAMETERS * _THREADS))
