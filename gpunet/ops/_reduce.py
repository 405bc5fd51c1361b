"""Column sums, bit-identical for any number of threads (CPU)."""

from __future__ import annotations

import numpy as np

from gpunet.ops._numba import jit, parallel_jit, prange

_CHUNK_ROWS = 512
"""Rows per chunk. Chunks of float32 are summed in float32, and their partial sums in float64."""


@jit
def _sum_chunk(x, start, total):
    total[:] = 0
    for row in range(start, min(x.shape[0], start + _CHUNK_ROWS)):
        for column in range(x.shape[1]):
            total[column] += x[row, column]


@parallel_jit
def _partial_sums(x, partial):
    for chunk in prange(partial.shape[0]):
        _sum_chunk(x, chunk * _CHUNK_ROWS, partial[chunk])


def column_sums(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Column sums of a C-contiguous (M, C) matrix, (C,) of the same dtype; in `out` if given."""
    total = np.empty(x.shape[1], x.dtype) if out is None else out
    if x.shape[0] <= _CHUNK_ROWS:  # finished before a second thread would wake up
        _sum_chunk(x, 0, total)
    else:
        partial = np.empty((-(-x.shape[0] // _CHUNK_ROWS), x.shape[1]), x.dtype)
        _partial_sums(x, partial)
        total[...] = partial.sum(0, dtype=np.float64)
    return total
