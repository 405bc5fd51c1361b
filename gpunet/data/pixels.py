"""Conversion of pixels to the dtypes in which data sets are stored: uint8 where that is lossless, else float32."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

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
    seen = [Seen(float(part.min()), float(part.max()), _whole(part)) for part in parts]
    found, unit = range_of(seen, sources, value_range)
    if unit:
        with contextlib.suppress(DataError):
            pairs = zip(parts, sources, strict=True)
            return [to_uint8(part, source, exact=True) for part, source in pairs], EIGHT_BITS
    check_bounds(seen, sources, found)
    if all(part.whole and part.low >= 0 and part.high <= 255 for part in seen):
        return [np.ascontiguousarray(part, np.uint8) for part in parts], found.range
    return [np.ascontiguousarray(part, np.float32) for part in parts], found.range


class Seen(NamedTuple):
    """What was seen of the values of a part."""

    low: float
    high: float
    whole: bool
    """Whether all are whole numbers."""


class Range(NamedTuple):
    """The values that become [0, 1]."""

    range: tuple[float, float]
    usual: bool
    """Whether that is a usual range which other parts have, too, rather than the one that was given or seen."""


def seen_in(array: np.ndarray, source: str) -> Seen:
    """What is seen in one array, which must hold numbers; DataError as :func:`stored`."""
    numbers = _numbers(array, source)
    return Seen(float(numbers.min()), float(numbers.max()), _whole(numbers))


def range_of(
    seen: Sequence[Seen], sources: Sequence[str], value_range: tuple[float, float] | None
) -> tuple[Range, bool]:
    """The range that :func:`stored` chooses, and whether the values may be k/255, to be stored as k."""
    bounds, whole = [(part.low, part.high) for part in seen], all(part.whole for part in seen)
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
    return Range(found, found == own), found == UNIT and not whole


def check_bounds(seen: Sequence[Seen], sources: Sequence[str], found: Range) -> None:
    """Raise DataError if values of another part than the first lie beyond a usual range."""
    if not found.usual:
        return
    low, high = found.range
    for part, source in zip(seen[1:], sources[1:], strict=True):
        if not low <= part.low <= part.high <= high:
            raise DataError(
                f"{source}: values lie between {part.low:g} and {part.high:g}, but those of {sources[0]} in {low:g} to "
                f"{high:g}: give both the same range"
            )


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
