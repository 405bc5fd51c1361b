"""Epilogues shared by several algorithms: adding the bias, and reducing split-K parts."""

from __future__ import annotations

from gpunet.ops._numba import jit, parallel_jit, prange


@jit
def add_bias(y, n, i, bias):
    """Add bias, (C,) or empty, to row i of image n of y, (N, H, W, C), while that row is in cache."""
    if bias.size:
        for j in range(y.shape[2]):
            for c in range(y.shape[3]):
                y[n, i, j, c] += bias[c]


@parallel_jit
def reduce_split_k(partial, total):
    """Sum `partial` over its first axis, the parts, in order; the result is written to the vector `total`."""
    parts, size = partial.shape
    block = 4096
    for task in prange((size + block - 1) // block):
        start, stop = task * block, min(size, (task + 1) * block)
        here = total[start:stop]
        here[:] = partial[0, start:stop]
        for part in range(1, parts):
            values = partial[part, start:stop]
            for at in range(values.size):
                here[at] += values[at]
