"""Dropout on the GPU: one launch each of ``kernels/dropout.cu``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpunet import cuda
from gpunet.backend import Array

_THREADS = 256
_ELEMENTS = 4  # of one thread: the words of one counter


def dropout(x: Array, p: float, *, seed: int, step: Any, stream: int, first_element: int) -> tuple[Array, Array]:
    x = cuda.contiguous(x)
    y, mask = cuda.empty_like(x), cuda.empty(x.shape, np.uint8, x)
    key = seed, stream, *cuda.scalar(step, np.int64), *divmod(first_element, 4)
    arguments = x, y, mask, x.size, math.floor(p * 2**32), 1 / (1 - p), *key
    cuda.launch("dropout", "dropout", _grid(x), _THREADS, *arguments, real=x.dtype)
    return y, mask


def dropout_backward(dy: Array, mask: Array, p: float) -> Array:
    dy, mask = cuda.contiguous(dy), cuda.contiguous(mask)
    dx = cuda.empty_like(dy)
    cuda.launch("dropout", "dropout_backward", _grid(dy), _THREADS, dy, mask, dx, dy.size, 1 / (1 - p), real=dy.dtype)
    return dx


def _grid(x: Array) -> int:
    return cuda.ceil_div(x.size, _ELEMENTS * _THREADS)
