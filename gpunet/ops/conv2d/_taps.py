"""Which row (column) of the input each output row (column) meets at each tap of a kernel; -1 for the padding."""

from __future__ import annotations

import functools

import numpy as np

from gpunet.ops.geometry import Conv2dGeometry


def _axis_taps(size: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> np.ndarray:
    position = np.arange(out)[:, None] * stride - before + np.arange(kernel)[None, :] * dilation
    return np.where((position >= 0) & (position < size), position, -1)


def _inverse_taps(taps: np.ndarray, size: int) -> np.ndarray:
    """For each input position and tap, the output position that used it, or -1."""
    inverse = np.full((size, taps.shape[1]), -1)
    out, tap = np.nonzero(taps >= 0)
    inverse[taps[out, tap], tap] = out
    return inverse


@functools.lru_cache(maxsize=256)
def tap_tables(g: Conv2dGeometry) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Tables of rows and columns: those of the forward pass, and those of the input gradient."""
    top, _, left, _ = g.padding
    rows = _axis_taps(g.height, g.out_height, g.kernel[0], g.stride[0], top, g.dilation[0])
    columns = _axis_taps(g.width, g.out_width, g.kernel[1], g.stride[1], left, g.dilation[1])
    return (rows, columns), (_inverse_taps(rows, g.height), _inverse_taps(columns, g.width))
