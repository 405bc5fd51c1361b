"""The linear op by definition: the oracle for all other implementations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpunet.ops._reference import stored


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, relu: bool = False) -> np.ndarray:
    """See :func:`gpunet.ops.linear.linear`."""
    y: np.ndarray = np.einsum("...i,io->...o", x, weight)
    y = y if bias is None else y + bias
    return np.where(y <= 0, y.dtype.type(0), y) if relu else y


def linear_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    *,
    y: np.ndarray | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
    out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """See :func:`gpunet.ops.linear.linear_backward`."""
    if y is not None:
        dy = np.where(y <= 0, dy.dtype.type(0), dy)
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return (
        np.einsum("...o,io->...i", dy, weight) if "x" in needs else None,
        stored(np.einsum("ni,no->io", rows, drows), out[0]) if "weight" in needs else None,
        stored(drows.sum(0), out[1]) if "bias" in needs else None,
    )
