"""NumPy arrays aligned to a cache line.

NumPy's own start wherever malloc puts them; with glibc, 16 bytes into a line. Register-tiled loops load whole lines: if
every load straddles two of them, a matrix product takes up to a third longer.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from gpunet import recording
from gpunet.recording import LINE

SMALL = 2**17
"""Arrays of fewer bytes are left where malloc puts them: to align one takes a microsecond, more than it saves."""

_byte_at: Any = ctypes.c_char.from_buffer
_address = ctypes.addressof  # three times as fast as `array.ctypes.data`


def empty(shape: Any, dtype: Any = np.float64) -> np.ndarray:
    """``np.empty(shape, dtype)``, aligned to :data:`LINE` unless it is :data:`SMALL`."""
    array = np.empty(shape, dtype)
    size = array.nbytes
    if size < SMALL:
        return array
    del array  # nothing was written to it yet
    recorded = recording.empty(shape, dtype, size)
    if recorded is not None:
        return recorded
    memory = np.empty(size + LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -_address(_byte_at(memory)) % LINE)


def empty_like(array: np.ndarray) -> np.ndarray:
    """``empty(array.shape, array.dtype)``."""
    return np.empty(array.shape, array.dtype) if array.nbytes < SMALL else empty(array.shape, array.dtype)


def zeros(shape: Any, dtype: Any = np.float64) -> np.ndarray:
    """``np.zeros(shape, dtype)``, aligned as :func:`empty`; zero again in each step that is recorded."""
    array = empty(shape, dtype)
    recording.run(_clear, array)
    return array


def contiguous(array: np.ndarray) -> np.ndarray:
    """`array` if it is C-contiguous, else a copy that is, aligned as :func:`empty`."""
    if array.flags.c_contiguous:
        return array
    copy = empty(array.shape, array.dtype)
    recording.run(np.copyto, copy, array)
    return copy


def _clear(array: np.ndarray) -> None:
    array.fill(0)
