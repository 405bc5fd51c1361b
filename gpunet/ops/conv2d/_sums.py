# mypy: allow-untyped-decorators, allow-untyped-defs
# Numba kernels take no annotations: Numba infers the types.
"""Sums that several algorithms share."""

from __future__ import annotations

from gpunet.ops._numba import jit, parallel_jit, prange


@jit
def add_bias(y, n, i, bias):
    """Add bias, (C,) or empty, to the row i of image n of y, (N, H, W, C), while that is in the cache."""
    if bias.size:
        for j in range(y.shape[2]):
            for c in range(y.shape[3]):
                y[n, i, j, c] += bias[c]


@parallel_jit
def add_pieces(partial, total):
    """The sum over the first axis of `partial`, in order, in the vector `total`."""
    pieces, size = partial.shape
    block = 4096
    for task in prange((size + block - 1) // block):
        start, stop = task * block, min(size, (task + 1) * block)
        here = total[start:stop]
        here[:] = partial[0, start:stop]
        for piece in range(1, pieces):
            values = partial[piece, start:stop]
            for at in range(values.size):
                here[at] += values[at]
