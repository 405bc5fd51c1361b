"""Rows of a file, read into an array in any order: what a stream of training images is made of. On the host only."""

from __future__ import annotations

import numpy as np

from gpunet.errors import DTypeError, ShapeError
from gpunet.ops._dispatch import implementation


def read_rows(
    descriptor: int,
    rows: np.ndarray,
    places: np.ndarray,
    out: np.ndarray,
    *,
    start: int = 0,
    threads: bool = False,
) -> int:
    """Read row ``rows[i]`` of an open file into ``out[places[i]]``, for all i.

    Other threads run meanwhile; several may read the same file at once. Positions are the caller's to check: a row
    beyond the end of the file is not read.

    Args:
        descriptor: of a file that is open for reading.
        rows, places: (m,) int64; numbers of rows, each of as many bytes as a row of `out`, and places in `out`.
        out: (n, ...) C-contiguous, of any dtype.
        start: bytes before the first row of the file.
        threads: read in all threads of the kernels, not in the calling one alone; rows after one that is not in the
            file may then have been read, too.

    Returns: the number of rows that were read: less than m if one is not in the file, or cannot be read.

    Raises:
        DTypeError, ShapeError: `rows`, `places` or `out` are not as above, or a place is not in `out`.
    """
    if rows.dtype != np.int64 or places.dtype != np.int64:
        raise DTypeError(f"rows and places must be int64, got {rows.dtype} and {places.dtype}")
    if rows.ndim != 1 or rows.shape != places.shape or out.ndim < 1 or not out.flags.c_contiguous:
        raise ShapeError(
            f"rows and places must be vectors of one length, and out contiguous, got {rows.shape}, {places.shape} and "
            f"{out.shape}"
        )
    if not len(rows):
        return 0
    if int(places.min()) < 0 or int(places.max()) >= len(out):
        raise ShapeError(f"places must lie in [0, {len(out)}), got {places.min()} to {places.max()}")
    read: int = implementation(__name__, out).read_rows(descriptor, rows, places, out, start, threads)
    return read
