"""Conversion of pixels to the dtypes in which data sets are stored: uint8 where that is lossless, else float32."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from gpunet.data.dataset import EIGHT_BITS
from gpunet.errors import DataError

UNIT = (0.0, 1.0)

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


def stored(
    parts: Sequence[np.ndarray], sources: Sequence[str], value_range: tuple[float, float] | None = None
) -> tuple[list[np.ndarray], tuple[float, float]]:
    """The pixels of each part as uint8 if that is lossless for all, else as float32; and the range that is [0, 1].

    Unless `value_range` is given, the range is a function of the first part, the training images:

    * whole numbers from 0: the least of 0..1, 0..16 and 0..255 that holds them all, and beyond 0..1 those of the other
      parts, too: dark training images do not make a range of their own;
    * other numbers in 0..1: 0..1, and if all parts are k/255 up to rounding, they are stored as k, and it is 0..255;
    * any others: their least and greatest value.

    Whole numbers to 255 are not taken for 0..1, nor fractions of 1 for 0..255, even if that is the `value_range`.

    Raises:
        DataError: values are no numbers, or NaN or infinite; all are the same; or those of another part lie beyond the
            first one's range of 0..1, 0..16 or 0..255. `sources` name the parts.
    """
    parts = [_numbers(part, source) for part, source in zip(parts, sources, strict=True)]
    bounds = [(float(part.min()), float(part.max())) for part in parts]
    whole = all(_whole(part) for part in parts)
    own = _usual_range(bounds[0], whole)
    if whole and own not in (None, UNIT):
        own = _usual_range((min(low for low, _ in bounds), max(high for _, high in bounds)), whole) or own
    contradiction = (own == EIGHT_BITS and value_range == UNIT) or (
        own == UNIT and not whole and value_range == EIGHT_BITS
    )
    if value_range is None or contradiction:
        found = own or bounds[0]
        if found[0] == found[1]:
            raise DataError(f"{sources[0]}: all values are {found[0]:g}, so there is nothing to learn from them")
    else:
        found = value_range
    if found == UNIT and not whole:
        with contextlib.suppress(DataError):
            pairs = zip(parts, sources, strict=True)
            return [to_uint8(part, source, exact=True) for part, source in pairs], EIGHT_BITS
    for (low, high), source in zip(bounds[1:], sources[1:], strict=True):
        if found == own and not found[0] <= low <= high <= found[1]:
            raise DataError(
                f"{source}: values lie between {low:g} and {high:g}, but those of {sources[0]} in {found[0]:g} to "
                f"{found[1]:g}: give both the same range"
            )
    if whole and all(low >= 0 and high <= 255 for low, high in bounds):
        return [np.ascontiguousarray(part, np.uint8) for part in parts], found
    return [np.ascontiguousarray(part, np.float32) for part in parts], found


def _numbers(array: np.ndarray, source: str) -> np.ndarray:
    """`array` if it holds finite numbers; truth values as uint8."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind not in "uif":
        raise DataError(f"{source}: the images are {array.dtype}, expected numbers")
    if array.dtype.kind == "f":
        wrong = array.size - int(np.count_nonzero(np.abs(array) <= np.finfo(np.float32).max))
        if wrong:
            raise DataError(f"{source}: the images: {wrong} pixel(s) are NaN or infinite, or beyond float32")
    return array


def _whole(array: np.ndarray) -> bool:
    if array.dtype.kind != "f":
        return True
    return all(bool((array[i : i + _ROWS] == np.rint(array[i : i + _ROWS])).all()) for i in range(0, len(array), _ROWS))


def _usual_range(bounds: tuple[float, float], whole: bool) -> tuple[float, float] | None:
    """The least of the usual ranges that holds values within `bounds`, if one does."""
    low, high = bounds
    tops = (1.0, 16.0, 255.0) if whole else (1.0,)
    return next(((0.0, top) for top in tops if low >= 0 and high <= top), None)
