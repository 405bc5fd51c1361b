"""Conversion of pixels to uint8, the dtype in which data sets and images are stored."""

from __future__ import annotations

import numpy as np

from gpunet.errors import DataError

_ROWS = 2048  # converted at a time, so that the float64 temporaries stay small


def to_uint8(array: np.ndarray, what: str, *, exact: bool) -> np.ndarray:
    """`array` as C-contiguous uint8: uint8 unchanged, floats in [0, 1] times 255.

    With `exact`, floats must be k/255 up to rounding error (k an integer), so that the conversion is lossless;
    otherwise they are rounded to the nearest such number. `what` names the array in messages.

    Raises:
        DataError: the dtype is another one, or a value is NaN or infinite, outside [0, 1] or, with `exact`, not k/255.
    """
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise DataError(f"{what} are {array.dtype}, expected uint8, or floats in [0, 1]")
    # k/255, rounded once, and k * (1/255), rounded twice, have a relative error of at most eps. Floats converted from
    # float32 keep its rounding error, whatever their dtype is now.
    tolerance = 255.0 * max(float(np.finfo(array.dtype).eps), float(np.finfo(np.float32).eps))
    result = np.empty(array.shape, np.uint8)
    flat, out = array.reshape(len(array), -1), result.reshape(len(array), -1)
    for start in range(0, len(flat), _ROWS):
        rows = flat[start : start + _ROWS].astype(np.float64)
        if not np.isfinite(rows).all():
            count = int(np.count_nonzero(~np.isfinite(flat)))
            raise DataError(f"{what}: {count} pixel(s) are NaN or infinite")
        if rows.min(initial=0.0) < 0.0 or rows.max(initial=0.0) > 1.0:
            raise DataError(
                f"{what} are {array.dtype} between {flat.min():g} and {flat.max():g}, expected [0, 1]; "
                "pixels between 0 and 255 must be uint8"
            )
        rows *= 255.0
        whole = np.rint(rows)
        error = float(np.abs(rows - whole).max(initial=0.0))
        if exact and error > tolerance:
            raise DataError(
                f"{what} are {array.dtype} but not multiples of 1/255 (off by up to {error / 255:.2g}), so they would "
                "lose precision: give the original pixels as uint8"
            )
        out[start : start + _ROWS] = whole
    return result
