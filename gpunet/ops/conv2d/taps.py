"""Tables of the input row (column) that each output row (column) reads at each tap of the kernel; -1 for padding.

Also what is derived from them: kernels without taps that only ever read padding, and the convolution that computes the
input gradient of another. Pure geometry, shared by all devices.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from gpunet.ops.geometry import Conv2dGeometry


def _axis_taps(size: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> np.ndarray:
    position = np.arange(out)[:, None] * stride - before + np.arange(kernel)[None, :] * dilation
    return np.where((position >= 0) & (position < size), position, -1)


def _inverse_taps(taps: np.ndarray, size: int) -> np.ndarray:
    """For each input position and tap, the output position that reads it through that tap, or -1."""
    inverse = np.full((size, taps.shape[1]), -1)
    out, tap = np.nonzero(taps >= 0)
    inverse[taps[out, tap], tap] = out
    return inverse


@functools.lru_cache(maxsize=256)
def tap_tables(g: Conv2dGeometry) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Tables of rows and columns, for the forward pass and for the input gradient."""
    top, _, left, _ = g.padding
    rows = _axis_taps(g.height, g.out_height, g.kernel[0], g.stride[0], top, g.dilation[0])
    columns = _axis_taps(g.width, g.out_width, g.kernel[1], g.stride[1], left, g.dilation[1])
    return (rows, columns), (_inverse_taps(rows, g.height), _inverse_taps(columns, g.width))


@functools.lru_cache(maxsize=256)
def without_dead_taps(g: Conv2dGeometry) -> tuple[Conv2dGeometry, tuple[slice, slice]]:
    """The same convolution without outer kernel rows and columns that only ever read padding.

    Also returns which rows and columns of the kernel remain. On small maps this saves a lot: of a "same" 3x3 kernel on
    a 1x1 map, only the centre is left.
    """
    kept, padding = [], list(g.padding)
    for axis, taps in enumerate(tap_tables(g)[0]):
        live = np.flatnonzero((taps >= 0).any(axis=0))
        first, stop = (int(live[0]), int(live[-1]) + 1) if live.size else (0, 1)
        if padding[2 * axis] < first * g.dilation[axis]:  # the first remaining tap would start inside the map
            first = 0
        padding[2 * axis] -= first * g.dilation[axis]
        padding[2 * axis + 1] -= (g.kernel[axis] - stop) * g.dilation[axis]
        kept.append(slice(first, stop))
    kernel = kept[0].stop - kept[0].start, kept[1].stop - kept[1].start
    return replace(g, kernel=kernel, padding=(padding[0], padding[1], padding[2], padding[3])), (kept[0], kept[1])


@functools.lru_cache(maxsize=256)
def transposed(g: Conv2dGeometry) -> Conv2dGeometry | None:
    """The convolution of dy with rotated weights, channels of each group swapped, that yields dx; None with strides."""
    reach = [(g.kernel[axis] - 1) * g.dilation[axis] for axis in range(2)]
    padding = reach[0] - g.padding[0], reach[0] - g.padding[1], reach[1] - g.padding[2], reach[1] - g.padding[3]
    if g.stride != (1, 1) or min(padding) < 0:
        return None
    return replace(
        g,
        height=g.out_height,
        width=g.out_width,
        in_channels=g.out_channels,
        out_channels=g.in_channels,
        padding=padding,
        out_height=g.height,
        out_width=g.width,
    )
