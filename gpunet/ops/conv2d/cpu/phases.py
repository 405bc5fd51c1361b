"""Dilated convolution as one of the phases of the maps, which is not dilated: Winograd or the FFT computes it.

With dilation d, output i reads only inputs that leave the same remainder as i when divided by d, if the padding before
the map is a multiple of d. The d * d maps of one remainder for rows and columns are convolved as images of their own.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, prange
from gpunet.ops.geometry import Conv2dGeometry


@functools.lru_cache(maxsize=256)
def of_phases(g: Conv2dGeometry) -> Conv2dGeometry | None:
    """The convolution of the phases, with d * d images for each of `g`; None if `g` is strided, or not dilated."""
    (rows, columns), (top, _, left, _) = g.dilation, g.padding
    if g.stride != (1, 1) or rows * columns == 1 or top % rows or left % columns:
        return None
    height, width = -(-g.height // rows), -(-g.width // columns)
    out_height, out_width = -(-g.out_height // rows), -(-g.out_width // columns)
    before = top // rows, left // columns
    below = out_height + g.kernel[0] - 1 - height - before[0]
    right = out_width + g.kernel[1] - 1 - width - before[1]
    return replace(
        g,
        batch=g.batch * rows * columns,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        padding=(before[0], below, before[1], right),
        dilation=(1, 1),
    )


@jit
def _split(maps, rows, columns, phases):
    """phases[(n, i, j)] = the rows i, i + rows ... and columns j, j + columns ... of maps[n], zeros beyond its edge."""
    height, width, channels = maps.shape[1:]
    for image in prange(phases.shape[0]):
        n, i, j = image // (rows * columns), image // columns % rows, image % columns
        for y in range(phases.shape[1]):
            for x in range(phases.shape[2]):
                from_y, from_x = i + y * rows, j + x * columns
                if from_y < height and from_x < width:
                    for c in range(channels):
                        phases[image, y, x, c] = maps[n, from_y, from_x, c]
                else:
                    for c in range(channels):
                        phases[image, y, x, c] = 0


@jit
def _merge(phases, rows, columns, maps):
    """The inverse of :func:`_split`."""
    batch, height, width, channels = maps.shape
    for n in prange(batch):
        for y in range(height):
            for x in range(width):
                image = (n * rows + y % rows) * columns + x % columns
                for c in range(channels):
                    maps[n, y, x, c] = phases[image, y // rows, x // columns, c]


def split(maps: np.ndarray, g: Conv2dGeometry, height: int, width: int) -> np.ndarray:
    """The phases of `maps` (N, H, W, C), as (N * d * d, height, width, C)."""
    rows, columns = g.dilation
    phases = aligned.empty((len(maps) * rows * columns, height, width, maps.shape[3]), maps.dtype)
    _split(maps, rows, columns, phases)
    return phases


def merge(phases: np.ndarray, g: Conv2dGeometry, maps: np.ndarray) -> None:
    """`maps` (N, H, W, C) from their phases."""
    _merge(phases, *g.dilation, maps)
