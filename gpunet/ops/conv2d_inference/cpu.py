"""A convolution block in inference on the CPU: all that follows the convolution is its epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.ops._numba import jit
from gpunet.ops._simd import PANEL_BYTES
from gpunet.ops.conv2d.cpu import conv2d_and_epilogue
from gpunet.ops.conv2d.cpu.epilogue import Epilogue, padded_to_panels
from gpunet.ops.geometry import Conv2dGeometry


@jit
def _coefficients(bias: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float, padded: int) -> Any:
    """(2, padded): (sum + bias - mean) * gamma / sqrt(var + eps) + beta as sum * scale + offset, found in float64.

    `bias`, or all else, may be empty.
    """
    found = np.zeros((2, padded), bias.dtype)
    for c in range(max(bias.size, gamma.size)):
        shift, scale, offset = 0.0, 1.0, 0.0
        if bias.size:
            shift = np.float64(bias[c])
        if gamma.size:
            shift, scale, offset = shift - mean[c], gamma[c] / np.sqrt(np.float64(var[c]) + eps), np.float64(beta[c])
        found[0, c] = scale
        found[1, c] = shift * scale + offset
    return found


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
    after = bias is not None or norm is not None
    vectors = [nothing if bias is None else bias, *((nothing,) * 4 if norm is None else norm)]
    padded = padded_to_panels(g.out_channels, x.itemsize) + PANEL_BYTES // x.itemsize
    coefficients = _coefficients(*map(np.ascontiguousarray, vectors), eps, padded)
    if not after:
        coefficients[0] = 1
    low = x.dtype.type(0 if relu else -np.inf)
    return conv2d_and_epilogue(x, weight, Epilogue(coefficients, low, 2 if max_pool else 1), g)
