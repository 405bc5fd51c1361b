"""Sums over the shards of a batch, for training that is shared out over several processes."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.checks import check_float, check_out, check_rank, check_shape
from gpunet.errors import DTypeError, ShapeError
from gpunet.ops._dispatch import implementation


def sum_shards(rows: Array, weights: Array, *, out: Array | None = None) -> Array:
    """``weights[0] * rows[0] + weights[1] * rows[1] + ...``, added in this order.

    Each column is summed by itself in float64 and rounded once, so its bits do not depend on which others are beside
    it: processes may share out the columns.

    Args:
        rows: (S, n), float32 or float64, at least one row, C-contiguous: what each shard contributes.
        weights: (S,), float64.
        out: C-contiguous array to write the sum to, which is then returned; None: a new one.

    Returns: (n,), the dtype of `rows`.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays are not as above, or on different devices.
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
