"""Argument checks shared by the public ops: one clear error before any work is done."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from gpunet.backend import Array
from gpunet.errors import ConfigError, DTypeError, ShapeError

FLOAT_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_FLOATS = frozenset(FLOAT_DTYPES)
_INT32 = np.dtype(np.int32)


def check_rank(name: str, array: Array, rank: int, layout: str) -> None:
    """Raise ShapeError unless `array` has `rank` dimensions; `layout` names them for the message."""
    if len(_shape(name, array)) != rank:
        raise ShapeError(f"{name} must have {rank} dimensions {layout}, got shape {tuple(array.shape)}")


def check_shape(name: str, array: Array, shape: Sequence[int]) -> None:
    """Raise ShapeError unless `array` has exactly `shape`."""
    if getattr(array, "shape", None) == shape:
        return
    if _shape(name, array) != tuple(shape):
        raise ShapeError(f"{name} must have shape {tuple(shape)}, got {tuple(array.shape)}")


def _shape(name: str, array: Any) -> tuple[int, ...]:
    try:
        return tuple(array.shape)
    except AttributeError:
        raise _no_array(name, array) from None


def _no_array(name: str, array: Any) -> DTypeError:
    return DTypeError(f"{name} must be an array, got {type(array).__name__}: convert it with numpy.asarray(...)")


def check_float(**arrays: Array | None) -> None:
    """Raise DTypeError unless all arrays that are not None share one dtype, float32 or float64."""
    common = None
    for array in arrays.values():
        if array is not None:
            dtype = getattr(array, "dtype", None)
            if dtype is not common:  # NumPy has one object per dtype
                if common is not None or dtype not in _FLOATS:
                    break
                common = dtype
    else:
        return
    first: tuple[str, Any] | None = None
    for name, array in arrays.items():
        if array is None:
            continue
        if not hasattr(array, "dtype"):
            raise _no_array(name, array)
        if array.dtype not in FLOAT_DTYPES:
            raise DTypeError(f"{name} must be float32 or float64, got {array.dtype}; convert it with .astype(...)")
        if first is None:
            first = name, array.dtype
        elif array.dtype != first[1]:
            raise DTypeError(f"{name} is {array.dtype} but {first[0]} is {first[1]}: the dtypes must match")


def check_labels(labels: Array, size: int) -> None:
    """Raise unless `labels` is an integer vector with `size` entries; checking their range is up to the data loader."""
    check_shape("labels", labels, (size,))
    if labels.dtype is _INT32:
        return
    if labels.dtype.kind not in "iu" or not labels.dtype.isnative:
        raise DTypeError(f"labels must be integers in native byte order, got {labels.dtype}: convert with .astype(...)")


def check_number(
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """`value` as a float, or ConfigError unless it is a finite number within the bounds."""
    if type(value) is float:
        above, below = low < value if low_open else low <= value, value < high if high_open else value <= high
        if above and below and math.isfinite(value):
            return value
    bounds = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a number in {bounds}, got {value!r}")
    if value < low or value > high or (low_open and value == low) or (high_open and value == high):
        raise ConfigError(f"{name} must be in {bounds}, got {value!r}")
    return float(value)


def check_int(name: str, value: int, *, low: int = 0, high: int | None = None) -> int:
    """`value` as an int, or ConfigError unless it is an integer in [`low`, `high`]."""
    if type(value) is int and low <= value and (high is None or value <= high):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ConfigError(f"{name} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{name} must be {limit}, got {value}")
    return int(value)


def check_needs(needs: Any, names: Sequence[str]) -> None:
    """Raise ConfigError unless `needs` is a sequence or set of some of the gradients' `names`."""
    if type(needs) is tuple:
        for need in needs:
            if need not in names:
                break
        else:
            return
    if isinstance(needs, str) or not isinstance(needs, Collection):
        raise ConfigError(f"needs must be a tuple of some of {', '.join(map(repr, names))}; got {needs!r:.80}")
    if any(need not in names for need in needs):
        raise ConfigError(f"needs may hold {', '.join(names)}; got {', '.join(map(repr, needs))}")


def check_out(out: Sequence[Array | None], *like: tuple[str, Sequence[int], Any]) -> None:
    """Raise unless each array in `out` that is not None matches its (name, shape, dtype) in `like`."""
    if len(out) != len(like):
        raise ShapeError(f"out must have {len(like)} entries ({', '.join(name for name, *_ in like)}), got {len(out)}")
    for array, (name, shape, dtype) in zip(out, like, strict=True):
        if array is None:
            continue
        if type(array) is np.ndarray and array.shape == shape and array.dtype is dtype:
            flags = array.flags
            if flags.c_contiguous and flags.writeable:
                continue
        check_shape(f"out's {name}", array, shape)
        if array.dtype != dtype:
            raise DTypeError(f"out's {name} must be {dtype}, got {array.dtype}")
        if not (array.flags.c_contiguous and getattr(array.flags, "writeable", True)):
            raise ShapeError(f"out's {name} is written in place: it must be C-contiguous and writeable")


def pair(name: str, value: int | Sequence[int], *, low: int = 1) -> tuple[int, int]:
    """An int or a pair of ints as (vertical, horizontal), each at least `low`."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        value = (int(value), int(value))
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(f"{name} must be an integer or a pair of integers, got {value!r}")
    return check_int(name, value[0], low=low), check_int(name, value[1], low=low)
