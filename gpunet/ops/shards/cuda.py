"""The sum over shards on the GPU: one launch of ``kernels/shards.cu``."""

from __future__ import annotations

from gpunet import cuda
from gpunet.backend import Array

_THREADS = 256


def sum_shards(rows: Array, weights: Array, out: Array | None) -> Array:
    shards, columns = rows.shape
    found = cuda.empty(columns, rows.dtype, rows) if out is None else out
    grid = cuda.ceil_div(columns, _THREADS)
    arguments = rows, cuda.contiguous(weights), found, shards, columns
    cuda.launch("shards", "sum_shards", grid, _THREADS, *arguments, real=rows.dtype)
    return found
