"""The linear op on the CPU: products in register tiles over blocks of rows, in parallel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpunet.ops._matmul import matmul
from gpunet.ops._reduce import column_sums
from gpunet.ops.activation import cpu as activation


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    y = matmul(rows, np.ascontiguousarray(weight), bias=bias, relu=relu)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def linear_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    y: np.ndarray | None,
    needs: Sequence[str],
    out: tuple[np.ndarray | None, np.ndarray | None],
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    if y is not None:
        dy = activation.relu_backward(dy, y)
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    drows = np.ascontiguousarray(dy).reshape(-1, dy.shape[-1])
    return (
        matmul(drows, np.ascontiguousarray(weight), trans_b=True).reshape(x.shape) if "x" in needs else None,
        matmul(rows, drows, trans_a=True, out=out[0]) if "weight" in needs else None,
        column_sums(drows, out[1]) if "bias" in needs else None,
    )
