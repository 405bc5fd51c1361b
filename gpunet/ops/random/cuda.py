"""Random words on the GPU: one launch of ``kernels/random.cu``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import cuda
from gpunet.backend import Array

_THREADS = 256
_WORDS = 4  # of one counter


def bits(seed: int, stream: int, step: Any, n: int, like: Array) -> Array:
    """The first `n` words of (seed, stream, step), uint32 (n,), on the device of `like`, as ``PhiloxStream.bits``.

    `step` is an int or an integer array of one element on that device, read modulo 2**32 when it runs.
    """
    words = cuda.empty(n, np.uint32, like)
    grid = cuda.ceil_div(n, _WORDS * _THREADS)
    arguments = words, n, seed, stream, *cuda.scalar(step, np.int64)
    cuda.launch("random", "philox_words", grid, _THREADS, *arguments, real=np.float32)
    return words
