"""Dropout on the CPU: each piece of the array draws its mask and applies it while it is in cache."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.ops._numba import jit, prange
from gpunet.ops.random.cpu import counter_words
from gpunet.recording import run

# Size of a piece: enough work to be worth waking a thread, little enough to stay in its cache.
_COUNTERS = 2048
_ELEMENTS = 32768
_LITTLE_ENDIAN = sys.byteorder == "little"


@jit
def _draw(mask: Any, start: int, key: Any, threshold: Any) -> None:
    """The four mask bytes of each counter from `start` on, packed into one uint32; key is (seed, stream, step)."""
    # A single contiguous store per counter lets LLVM vectorise over counters.
    for i in range(mask.size):
        w0, w1, w2, w3 = counter_words(key[0], key[1], key[2], np.uint64(start + i))
        first, second = np.uint32(w0 >= threshold), np.uint32(w1 >= threshold)
        third, fourth = np.uint32(w2 >= threshold), np.uint32(w3 >= threshold)
        if _LITTLE_ENDIAN:
            mask[i] = first | second << np.uint32(8) | third << np.uint32(16) | fourth << np.uint32(24)
        else:
            mask[i] = fourth | third << np.uint32(8) | second << np.uint32(16) | first << np.uint32(24)


@jit
def _scale(x: Any, mask: Any, y: Any, scales: Any) -> None:
    dropped, kept = scales
    for i in range(x.size):
        y[i] = x[i] * (kept if mask[i] else dropped)  # multiplied rather than selected: a NaN must stay NaN


@jit
def _dropout(
    x: Any, y: Any, packed: Any, mask: Any, lead: int, first: int, key: Any, threshold: Any, scales: Any
) -> None:
    """`first` is the counter of packed[0], whose first `lead` bytes are not x's."""
    for piece in prange((packed.size + _COUNTERS - 1) // _COUNTERS):
        begin, end = piece * _COUNTERS, (piece + 1) * _COUNTERS
        _draw(packed[begin:end], first + begin, key, threshold)
        low, high = max(0, 4 * begin - lead), 4 * end - lead
        _scale(x[low:high], mask[low:high], y[low:high], scales)


@jit
def _dropout_backward(dy: Any, mask: Any, dx: Any, scales: Any) -> None:
    for piece in prange((dy.size + _ELEMENTS - 1) // _ELEMENTS):
        begin, end = piece * _ELEMENTS, (piece + 1) * _ELEMENTS
        _scale(dy[begin:end], mask[begin:end], dx[begin:end], scales)


def _scales(p: float, dtype: Any) -> tuple[Any, Any]:
    # The factors of dropped and of kept elements.
    return dtype.type(0), dtype.type(1 / (1 - p))


def dropout(
    x: np.ndarray, p: float, *, seed: int, step: Any, stream: int, first_element: int
) -> tuple[np.ndarray, np.ndarray]:
    x = contiguous(x)
    y = aligned.empty_like(x)
    first, lead = divmod(first_element, 4)
    packed = aligned.empty(-(-(lead + x.size) // 4), np.uint32)  # the last counter may reach beyond the last element
    mask = packed.view(np.uint8)[lead : lead + x.size]
    run(_drop, x.reshape(-1), y.reshape(-1), packed, mask, (lead, first), (seed, stream), step, p)
    return y, mask.reshape(x.shape)


def _drop(
    x: np.ndarray,
    y: np.ndarray,
    packed: np.ndarray,
    mask: np.ndarray,
    begin: tuple[int, int],
    stream: tuple[int, int],
    step: Any,
    p: float,
) -> None:
    step = step if isinstance(step, int) else int(step.item()) & 0xFFFFFFFF
    key = np.uint64(stream[0]), np.uint32(stream[1]), np.uint32(step)
    threshold = np.uint32(math.floor(p * 2**32))
    _dropout(x, y, packed, mask, *begin, key, threshold, _scales(p, x.dtype))


def dropout_backward(dy: np.ndarray, mask: np.ndarray, p: float) -> np.ndarray:
    dy, mask = contiguous(dy), contiguous(mask)
    dx = aligned.empty_like(dy)
    _dropout_backward(dy.reshape(-1), mask.reshape(-1), dx.reshape(-1), _scales(p, dy.dtype))
    return dx
