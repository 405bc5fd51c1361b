"""How a GEMM of ``kernels/conv2d_gemm.cu`` is cut into thread blocks: the tile of the result, and the slices of K.

Where the tiles of the result alone would leave a GPU idle, the reduction dimension K is split into slices (split-K),
whose partial results ``kernels/column_sums.cu`` adds in order. :func:`plan` takes the tile and the number of slices of
the shortest estimated time. The estimate knows the shapes and the precision alone, so the same arrays give the same
bits on the same device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

TILE_K = 16
"""Of ``gemm.cuh``."""
_MULTIPROCESSORS = 132
_LAUNCH, _BYTES = 0.76, 2.5e6
"""What split-K adds: microseconds of a launch, and the bytes of partial results read and written in one."""
_SET_UP = 1
"""What a thread block does before and after its K tiles, as a number of K tiles."""
_MIN_SLICE_TILES = 2
"""The least K tiles of a slice: fewer are not worth writing and adding a partial result."""


class _Tile(NamedTuple):
    rows: int
    columns: int
    microseconds: float
    """That one K tile takes a multiprocessor for each of its thread blocks."""
    exposed: float
    """Latency that the other thread blocks do not hide, as a number of thread blocks more."""


_TILES = {
    "float32": (_Tile(128, 64, 0.778, 0.55), _Tile(128, 32, 0.463, 0.76), _Tile(64, 64, 0.416, 0.76)),
    "tf32": (_Tile(128, 64, 0.336, 0.61), _Tile(128, 32, 0.265, 0.58), _Tile(64, 64, 0.199, 0.89)),
    "float64": (_Tile(64, 64, 0.832, 0.76),),
}
"""By precision; the lines "compile" of conv2d_gemm.cu name the same tiles.

These and the constants above are fitted to timings of the networks' products on an H100: layers, directions, 128 to
1,024 images, all tiles and up to 9 numbers of slices. What the estimate chooses takes 1 to 3 % longer than the best.
The numbers of float64 are those of float32, doubled: with one tile to choose from they only weigh slices."""


class Plan(NamedTuple):
    """How a GEMM is cut into thread blocks."""

    tile: tuple[int, int]
    """Rows and columns."""
    tiles: tuple[int, int]
    """Along the rows and along the columns."""
    slices: int
    """Of split-K."""


def precision_name(dtype: Any, precision: str) -> str:
    """That of :data:`_TILES` for arrays of `dtype` on a backend with `precision`."""
    return "float64" if dtype == np.float64 else precision


@functools.lru_cache(maxsize=1024)
def plan(
    rows: int, columns: int, k: int, precision: str, *, max_slices: int, layers: int = 1, busy_rows: int | None = None
) -> Plan:
    """The plan for a product of (rows, k) and (k, columns).

    Args:
        rows: of the result; of one layer.
        columns: of the result.
        k: length of the sums: the mean, where it differs from tile to tile.
        precision: ``float32``, ``tf32`` or ``float64``.
        max_slices: the most slices.
        layers: so many such products are one launch.
        busy_rows: so many rows have anything to sum (default: all).
    """
    k_tiles = max(1, math.ceil(k / TILE_K))
    busy = rows if busy_rows is None else busy_rows

    def microseconds(option: tuple[_Tile, int]) -> float:
        tile, slices = option
        blocks = layers * math.ceil(busy / tile.rows) * math.ceil(columns / tile.columns) * slices
        of_one = math.ceil(blocks / _MULTIPROCESSORS) + tile.exposed
        multiplied = of_one * tile.microseconds * (math.ceil(k_tiles / slices) + _SET_UP)
        itemsize = 8 if precision == "float64" else 4
        added = _LAUNCH + (slices + 1) * layers * rows * columns * itemsize / _BYTES
        return multiplied + (added if slices > 1 else 0)

    def options() -> Iterator[tuple[_Tile, int]]:
        for tile in _TILES[precision]:
            for slices in range(1, max(1, min(max_slices, k_tiles // _MIN_SLICE_TILES)) + 1):
                yield tile, slices

    tile, slices = min(options(), key=microseconds)
    tiles = max(1, math.ceil(rows / tile.rows)), max(1, math.ceil(columns / tile.columns))
    return Plan((tile.rows, tile.columns), tiles, slices)
