"""Sums over the shards of a batch, for training that is shared out over several processes.

The facts of a shard are a row of numbers: its mean loss, its number of correct predictions, the weight of its loss
among the shards, and anything else that is to be summed.
"""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.checks import check_float, check_int, check_labels, check_out, check_rank, check_shape
from gpunet.errors import DTypeError, ShapeError
from gpunet.ops._dispatch import implementation

FACTS = 3
"""Facts that each shard has: loss, correct, weight."""


def sum_shards(rows: Array, weights: Array, *, out: Array | None = None) -> Array:
    """``weights[0] * rows[0] + weights[1] * rows[1] + ...``, added in this order.

    Each column is summed by itself in float64 and rounded once, so its bits do not depend on which others are beside
    it: processes may share out the columns.

    Args:
        rows: (S, n), float32 or float64, at least one row, C-contiguous: what each shard contributes.
        weights: (S,), float64.
        out: C-contiguous array to write the sum to, which is then returned; None: a new one.

    Returns:
        (n,), the dtype of `rows`.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays are not as above, or on different devices.

    >>> gn.ops.sum_shards(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.25, 0.75]))
    array([2.5, 3.5])
    """
    impl = implementation(__name__, rows, weights, out)
    check_float(rows=rows)
    check_rank("rows", rows, 2, "(S, n)")
    if not rows.shape[0] or not rows.flags.c_contiguous:
        raise ShapeError(f"rows must be C-contiguous and at least one, got shape {tuple(rows.shape)}")
    check_shape("weights", weights, rows.shape[:1])
    if weights.dtype != "float64":
        raise DTypeError(f"weights must be float64, got {weights.dtype}")
    check_out((out,), ("out", rows.shape[1:], rows.dtype))
    result: Array = impl.sum_shards(rows, weights, out)
    return result


def record_shard(
    facts: Array,
    loss: Array,
    correct: Array,
    *,
    rows: int,
    labels: Array | None = None,
    weight: Array | None = None,
) -> None:
    """Write the first three facts of a shard to `facts`, **in place**.

    Args:
        facts: (m,), m at least 3, float32 or float64, C-contiguous.
        loss: one element of the dtype of `facts`, the mean loss.
        correct: one element, int64.
        rows: number of rows, which is the weight of the shard unless its rows have weights.
        labels, weight: (rows,), integers in [0, C), and (C,), dtype of `facts`: the weight of the shard is the sum of
            those of its labels.

    Raises:
        ShapeError, DTypeError, DeviceError, ConfigError: the arguments are not as above.

    >>> facts = np.zeros(3)
    >>> gn.ops.record_shard(facts, np.array(0.5), np.array(7), rows=8)
    >>> facts
    array([0.5, 7. , 8. ])
    """
    weighted = labels if weight is not None else None
    impl = implementation(__name__, facts, loss, correct, weighted, weight)
    check_float(facts=facts, loss=loss, weight=weight)
    check_rank("facts", facts, 1, "(m,)")
    if facts.shape[0] < FACTS or not facts.flags.c_contiguous:
        raise ShapeError(f"facts must be C-contiguous with at least {FACTS} entries, got shape {tuple(facts.shape)}")
    check_shape("loss", loss.reshape(-1), (1,))
    check_shape("correct", correct.reshape(-1), (1,))
    if correct.dtype != "int64":
        raise DTypeError(f"correct must be int64, got {correct.dtype}")
    rows = check_int("rows", rows, low=1)
    if weight is not None:
        if weighted is None:
            raise ShapeError("the weights of classes need the labels of the rows")
        check_labels(weighted, rows)
        check_rank("weight", weight, 1, "(C,)")
    impl.record_shard(facts, loss, correct, rows, weighted, weight)


def weigh_shards(facts: Array, weights: Array, correct: Array) -> None:
    """The share of each shard in the weight of all, and the number of correct predictions, both **in place**.

    Args:
        facts: (S, m), m at least 3, C-contiguous: those of each shard, see :func:`record_shard`.
        weights: (S,), float64.
        correct: (1,), int64.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays are not as above.

    >>> weights, correct = np.zeros(2), np.zeros(1, np.int64)
    >>> gn.ops.weigh_shards(np.array([[0.5, 7, 8], [0.1, 8, 8]]), weights, correct)
    >>> weights, correct
    (array([0.5, 0.5]), array([15]))
    """
    impl = implementation(__name__, facts, weights, correct)
    check_float(facts=facts)
    check_rank("facts", facts, 2, "(S, m)")
    if not facts.shape[0] or facts.shape[1] < FACTS or not facts.flags.c_contiguous:
        raise ShapeError(f"facts must be C-contiguous (S, at least {FACTS}), got shape {tuple(facts.shape)}")
    check_out((weights, correct), ("weights", facts.shape[:1], "float64"), ("correct", (1,), "int64"))
    impl.weigh_shards(facts, weights, correct)
