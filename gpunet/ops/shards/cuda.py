"""Sums over shards on the GPU: one launch each of ``kernels/shards.cu``."""

from __future__ import annotations

import numpy as np

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


def record_shard(
    facts: Array, loss: Array, correct: Array, rows: int, labels: Array | None, weight: Array | None
) -> None:
    found = None if labels is None else cuda.converted(labels, np.int32)
    classes = 0 if weight is None else weight.size
    weights = None if weight is None else cuda.contiguous(weight)
    arguments = facts, loss, correct, rows, found, weights, classes
    cuda.launch("shards", "record_shard", 1, _THREADS, *arguments, real=facts.dtype)


def weigh_shards(facts: Array, weights: Array, correct: Array) -> None:
    arguments = facts, weights, correct, *facts.shape
    cuda.launch("shards", "weigh_shards", 1, 1, *arguments, real=facts.dtype)
