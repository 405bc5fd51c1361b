"""A convolution block in inference on the CPU: all that follows the convolution is its epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.aligned import contiguous
from gpunet.ops._numba import jit
from gpunet.ops._simd import PANEL_BYTES
from gpunet.ops.conv2d.cpu import conv2d_and_epilogue
from gpunet.ops.conv2d.cpu.epilogue import Epilogue, padded_to_panels
from gpunet.ops.geometry import Conv2dGeometry


@jit
def _coefficients(bias: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float, found: Any) -> None:
    """(sum + bias - mean) * gamma / sqrt(var + eps) + beta as sum * scale + offset, in the rows of `found`.

    It is computed in float64. `bias`, or all else, may be empty: then all scales are 1. What is left is zero.
    """
    channels, padded = max(bias.size, gamma.size), found.shape[1]
    for c in range(padded):
        found[0, c], found[1, c] = (0 if channels else 1), 0
    for c in range(channels):
        shift, scale, offset = 0.0, 1.0, 0.0
        if bias.size:
            shift = np.float64(bias[c])
        if gamma.size:
            shift, scale, offset = shift - mean[c], gamma[c] / np.sqrt(np.float64(var[c]) + eps), np.float64(beta[c])
        found[0, c] = scale
        found[1, c] = shift * scale + offset


def conv2d_inference(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    norm: Sequence[np.ndarray] | None,
    g: Conv2dGeometry,
    eps: float,
    relu: bool,
    max_pool: bool,
) -> np.ndarray:
    nothing = np.empty(0, x.dtype)
    vectors = [nothing if bias is None else bias, *((nothing,) * 4 if norm is None else norm)]
    padded = padded_to_panels(g.out_channels, x.itemsize) + PANEL_BYTES // x.itemsize
    coefficients = np.empty((2, padded), x.dtype)
    _coefficients(*map(contiguous, vectors), eps, coefficients)
    low = x.dtype.type(0 if relu else -np.inf)
    return conv2d_and_epilogue(x, weight, Epilogue(coefficients, low, 2 if max_pool else 1), g)
