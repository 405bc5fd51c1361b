"""The sum over shards on the CPU: memory-bound, one pass over the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, prange

_COLUMNS = 2048
"""Columns of a piece, whose sums in float64 stay in the L1 cache."""


@jit
def _add(row: Any, weight: float, total: Any) -> None:
    for c in range(row.size):
        total[c] += weight * np.float64(row[c])


@jit
def _sum_piece(rows: Any, weights: Any, start: int, out: Any) -> None:
    total = np.zeros(out.size)
    for shard in range(rows.shape[0]):
        _add(rows[shard, start : start + out.size], weights[shard], total)
    for c in range(out.size):
        out[c] = total[c]


@jit
def _sum_pieces(rows: Any, weights: Any, out: Any) -> None:
    for piece in prange((out.size + _COLUMNS - 1) // _COLUMNS):
        start = piece * _COLUMNS
        _sum_piece(rows, weights, start, out[start : min(out.size, start + _COLUMNS)])


def sum_shards(rows: np.ndarray, weights: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    found = aligned.empty(rows.shape[1:], rows.dtype) if out is None else out
    _sum_pieces(rows, np.ascontiguousarray(weights), found)
    return found


def record_shard(
    facts: np.ndarray,
    loss: np.ndarray,
    correct: np.ndarray,
    rows: int,
    labels: np.ndarray | None,
    weight: np.ndarray | None,
) -> None:
    facts[0], facts[1] = loss.reshape(()), correct.reshape(())
    facts[2] = rows if weight is None or labels is None else weight[labels].sum(dtype=np.float64)


def weigh_shards(facts: np.ndarray, weights: np.ndarray, correct: np.ndarray) -> None:
    found = facts[:, 2].astype(np.float64)
    weights[...] = found / np.add.accumulate(found)[-1]
    correct[0] = facts[:, 1].astype(np.int64).sum()
