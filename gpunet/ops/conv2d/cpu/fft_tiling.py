"""How convolution by FFT divides maps into tiles, and when it pays off; see :mod:`gpunet.ops.conv2d.cpu.fft`."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from gpunet.ops._simd import PANEL_BYTES
from gpunet.ops.conv2d.cpu.fft_transform import points_of
from gpunet.ops.conv2d.taps import tap_tables
from gpunet.ops.geometry import Conv2dGeometry

_ENOUGH_TILES, _GAIN = 32, 1.4
"""Where it pays off: number of tiles, and how many times more multiplications others take (measured on Zen 4)."""
MAX_TILES = 24
"""Most tiles of a task of whole images."""


class Tiling(NamedTuple):
    """How the output is divided into tiles."""

    n: int
    """Size of a window of the input."""
    rows: int
    columns: int
    """Size of a tile."""
    down: int
    across: int
    """Tiles of a map."""


def _tiling(g: Conv2dGeometry, n: int) -> Tiling | None:
    """A whole map in a tile if possible, else as many rows and columns as see nothing of the window's other end."""
    maps, outputs, before = (g.height, g.width), (g.out_height, g.out_width), (g.padding[0], g.padding[2])
    sizes = [n - r + 1 for r in g.kernel]
    if min(sizes) < 1:
        return None
    # After the map come the zeros of the padding before it.
    whole = [
        min(n, size + pad) if full + pad <= n else size for size, full, pad in zip(sizes, maps, before, strict=True)
    ]
    if any(output > size for output, size in zip(outputs, whole, strict=True)):
        whole = sizes
    down, across = (-(-output // size) for output, size in zip(outputs, whole, strict=True))
    return Tiling(n, *whole, down, across)


@functools.lru_cache(maxsize=1024)
def _best_tiling(g: Conv2dGeometry) -> Tiling | None:
    """That with the fewest multiplications. 16x16 points pay off for larger kernels than 3x3."""
    sizes = (8, 16) if math.prod(g.kernel) > 9 else (8,)
    found = [tiling for n in sizes if (tiling := _tiling(g, n)) is not None]
    return min(found, key=_multiplications, default=None)


def _multiplications(t: Tiling) -> int:
    """For each pair of channels of an image."""
    return t.down * t.across * points_of(t.n)


def tiling_of(g: Conv2dGeometry) -> Tiling:
    found = _best_tiling(g)
    assert found is not None
    return found


def applies(g: Conv2dGeometry) -> bool:
    """Whether it is applicable: stride 1, no dilation, channels a multiple of the panel width, a kernel not too large.

    So must be the output channels of a group, and for the gradient of the weights there may be only one.
    """
    width = PANEL_BYTES // np.dtype(np.float32).itemsize
    channels = g.in_channels % width == g.out_channels // g.groups % width == 0
    return g.stride == g.dilation == (1, 1) and channels and _best_tiling(g) is not None


@functools.lru_cache(maxsize=1024)
def pays_off(g: Conv2dGeometry, others: int | None) -> bool:
    """Whether there are enough tiles, and it takes fewer multiplications for a pair of channels than the `others`.

    None stands for direct convolution.
    """
    t = tiling_of(g)
    if others is None:
        others = math.prod(int((table >= 0).sum()) for table in tap_tables(g)[0])
    return g.batch * t.down * t.across >= _ENOUGH_TILES and _GAIN * _multiplications(t) <= others


def keeps_images_in_cache(g: Conv2dGeometry) -> bool:
    """Whether a task may be whole images, which an epilogue needs."""
    t = tiling_of(g)
    return t.down * t.across <= MAX_TILES
