"""Argument checks of the optimiser ops."""

from __future__ import annotations

from typing import cast

import numpy as np

from gpunet.backend import Array, Scalar
from gpunet.checks import FLOAT_DTYPES, check_float, check_int, check_number, check_rank, check_shape
from gpunet.errors import ConfigError, DTypeError, ShapeError


def check_buffers(*written: str, **buffers: Array | None) -> None:
    """Raise unless all given buffers are flat, with the same dtype and size, and those named in `written` writeable."""
    check_float(**buffers)
    shape = None
    for name, array in buffers.items():
        if array is None:
            continue
        if shape is None:
            check_rank(name, array, 1, "(flat)")
            shape = array.shape
        elif array.shape != shape:
            check_rank(name, array, 1, "(flat)")
            check_shape(name, array, shape)
        if name in written:
            flags = array.flags
            if not (flags.c_contiguous and getattr(flags, "writeable", True)):
                raise ShapeError(f"{name} is updated in place: it must be contiguous and writeable")


def check_scalar(name: str, value: Scalar | None, *, integer: bool = False, low: float | None = None) -> Array | None:
    """`value` if it is an array, which must have one element, float32 or float64 or, with `integer`, int; else None.

    A number must be finite and at least `low`; without `low`, any number is accepted, even NaN.
    """
    if value is None:
        return None
    if not hasattr(value, "ndim") or isinstance(value, np.generic):
        if low is not None:
            check_number(name, value, low=low)
        elif isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise ConfigError(f"{name} must be a number or a one-element array, got {value!r}")
        return None
    array = cast(Array, value)
    if array.size != 1:
        raise ShapeError(f"{name} must be a number or a one-element array, got shape {tuple(array.shape)}")
    if array.dtype.kind not in "iu" if integer else array.dtype not in FLOAT_DTYPES:
        expected = "integers" if integer else "float32 or float64"
        raise DTypeError(f"{name} must be a number or an array of {expected}, got an array of {array.dtype}")
    return array


def check_decay(weight_decay: float, decay_size: int | None, size: int) -> tuple[float, int]:
    """The weight decay and the number of parameters it applies to."""
    decay_size = size if decay_size is None else check_int("decay_size", decay_size, high=size)
    return check_number("weight_decay", weight_decay, low=0), decay_size
