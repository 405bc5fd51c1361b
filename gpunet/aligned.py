"""New NumPy arrays that begin at a cache line.

NumPy's begin wherever malloc puts them, with glibc 16 bytes into a line. Loops that keep sums in registers read whole
lines of a matrix: where each of these reads touches two, a matrix product takes up to a third longer.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

LINE = 64
"""Bytes of a cache line, and of the widest vector."""

_byte_at: Any = ctypes.c_char.from_buffer
_address = ctypes.addressof  # of that byte: three times as fast as `array.ctypes.data`


def empty(shape: Any, dtype: Any = np.float64) -> np.ndarray:
    """``np.empty(shape, dtype)``, aligned to :data:`LINE`."""
    dtype = np.dtype(dtype)
    elements = math.prod(shape) if isinstance(shape, (tuple, list)) else shape
    memory = np.empty(elements * dtype.itemsize + LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -_address(_byte_at(memory)) % LINE)


def zeros(shape: Any, dtype: Any = np.float64) -> np.ndarray:
    """``np.zeros(shape, dtype)``, aligned to :data:`LINE`."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
