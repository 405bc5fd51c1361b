"""The sum over shards, statement by statement."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.ops._reference import stored


def sum_shards(rows: np.ndarray, weights: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """See :func:`gpunet.ops.shards.sum_shards`."""
    total = np.zeros(rows.shape[1])
    for row, weight in zip(rows, weights, strict=True):
        total = total + weight * row.astype(np.float64)
    return stored(total.astype(rows.dtype), out)


def record_shard(
    facts: np.ndarray,
    loss: np.ndarray,
    correct: np.ndarray,
    *,
    rows: int,
    labels: Any = None,
    weight: Any = None,
) -> None:
    """See :func:`gpunet.ops.shards.record_shard`."""
    facts[0], facts[1] = loss.reshape(()), correct.reshape(())
    facts[2] = rows if weight is None else sum(float(weight[label]) for label in labels)


def weigh_shards(facts: np.ndarray, weights: np.ndarray, correct: np.ndarray) -> None:
    """See :func:`gpunet.ops.shards.weigh_shards`."""
    total = sum(float(row[2]) for row in facts)
    weights[:] = [float(row[2]) / total for row in facts]
    correct[0] = sum(int(row[1]) for row in facts)
