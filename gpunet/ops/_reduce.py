"""Column sums with the same bits for any number of threads (CPU)."""

from __future__ import annotations

import numpy as np

from gpunet.ops._numba import jit, parallel_jit, prange

_CHUNK_ROWS = 512
"""Rows of a chunk. A float32 chunk is summed in float32, the chunks' sums in float64."""


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
    """Sums over the rows of a C-contiguous (M, C) matrix, as (C,) of its dtype; in `out` if given."""
    total = np.empty(x.shape[1], x.dtype) if out is None else out
    if x.shape[0] <= _CHUNK_ROWS:  # done before a second thread would wake
        _sum_chunk(x, 0, total)
    else:
        partial = np.empty((-(-x.shape[0] // _CHUNK_ROWS), x.shape[1]), x.dtype)
        _partial_sums(x, partial)
        total[...] = partial.sum(0, dtype=np.float64)
    return total
