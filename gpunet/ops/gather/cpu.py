"""Batches on the CPU: one image per iteration of the parallel loop, read once and written once."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.aligned import LINE
from gpunet.errors import ConfigError
from gpunet.ops._numba import jit, prange
from gpunet.ops._simd import prefetch
from gpunet.ops.random import AUGMENT
from gpunet.ops.random.cpu import counter_words
from gpunet.recording import run

_STREAM = np.uint32(AUGMENT)
_SHIFT = np.uint64(32)


@jit
def _choose(word: Any, n: int) -> Any:
    """A random word mapped to [0, n)."""
    return np.int64((np.uint64(word) * np.uint64(n)) >> _SHIFT)


@jit
def _augment(pixels: Any, out: Any, channels: int, mirror: bool, move: Any, square: Any) -> None:
    """Augment one image, (H, W * C); move is (down, right), square is (top, bottom, left, right) inside the image."""
    height, width = pixels.shape[0], pixels.shape[1] // channels
    down, right = move
    top, bottom, left, end = square
    first, last = max(0, right), min(width, width + right)  # columns covered by the moved image
    source = (first - right) * channels
    if mirror:
        first, last = width - last, width - first
    for i in range(height):
        row = i - down
        if row < 0 or row >= height:
            out[i] = 0
            continue
        out[i, : first * channels] = 0
        out[i, last * channels :] = 0
        seen = pixels[row, source : source + (last - first) * channels]
        shown = out[i, first * channels : last * channels]
        if not mirror:
            shown[:] = seen
        elif channels == 1:
            for j in range(shown.size):
                shown[j] = seen[seen.size - 1 - j]
        else:
            for j in range(last - first):
                for c in range(channels):
                    shown[j * channels + c] = seen[(last - first - 1 - j) * channels + c]
        if top <= i < bottom:
            out[i, left * channels : end * channels] = 0


@jit
def _scale(pixels: Any, x: Any, scale: Any, offset: Any) -> None:
    for i in range(x.size):
        x[i] = x.dtype.type(pixels[i]) * scale[i] + offset[i]


_PIECE = 2**14
"""Number of pixels, at least, that a thread scales at a time."""


@jit
def _gather_plain(images: Any, rows: Any, x: Any, scale: Any, offset: Any) -> None:
    """As :func:`_gather`, without augmentation."""
    flat, size = images.reshape(-1), x[0].size
    piece_rows = (_PIECE + size - 1) // size
    for piece in prange((rows.size + piece_rows - 1) // piece_rows):
        for r in range(piece * piece_rows, min(rows.size, (piece + 1) * piece_rows)):
            if r + 1 < rows.size:  # rows are far apart, so that the processor does not foresee the next one
                for at in range(0, size, LINE):
                    prefetch(flat, rows[r + 1] * size + at)
            _scale(images[rows[r]].reshape(-1), x[r].reshape(-1), scale, offset)


@jit
def _gather(
    images: Any, rows: Any, x: Any, scale: Any, offset: Any, channels: int, augmentation: Any, key: Any, first_row: Any
) -> None:
    """`images` and `x` are (n, H, W * C), `scale` and `offset` (H * W * C,); key is (seed, step)."""
    flip, shift, cutout = augmentation
    seed, step = key
    height, width = images.shape[1], images.shape[2] // channels
    for r in prange(rows.size):
        number = np.uint64(2 * (first_row + r))
        w0, w1, w2, _ = counter_words(seed, _STREAM, step, number)
        v0, v1, _, _ = counter_words(seed, _STREAM, step, number + np.uint64(1))
        mirror = flip and w0 >= np.uint32(0x80000000)
        move = _choose(w1, 2 * shift + 1) - shift, _choose(w2, 2 * shift + 1) - shift
        top, left = _choose(v0, height) - cutout // 2, _choose(v1, width) - cutout // 2
        square = max(top, 0), min(top + cutout, height), max(left, 0), min(left + cutout, width)
        image = images[rows[r]]
        augmented = np.empty_like(image)
        _augment(image, augmented, channels, mirror, move, square)
        _scale(augmented.reshape(-1), x[r].reshape(-1), scale, offset)


def gather_batch(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    *,
    start: Any,
    size: int,
    scale: np.ndarray | None,
    offset: np.ndarray | None,
    flip: bool,
    shift: int,
    cutout: int,
    seed: int,
    step: Any,
    first_row: int,
    dtype: Any,
) -> tuple[np.ndarray, np.ndarray]:
    shape = images.shape[1:]
    x, y = aligned.empty((size, *shape), dtype), np.empty(size, np.int32)
    key = (flip, shift, cutout), seed, step
    run(_gather_batch, images, labels, order, start, first_row, scale, offset, key, x, y)
    return x, y


def _gather_batch(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    start: Any,
    first_row: int,
    scale: np.ndarray | None,
    offset: np.ndarray | None,
    augmentation: tuple[tuple[bool, int, int], int, Any],
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    """`augmentation`: what is done, the seed and the step."""
    size, shape, (changes, seed, step) = len(y), images.shape[1:], augmentation
    rows = _rows(order, start, first_row, size, len(images))
    y[...] = labels.take(rows)
    if images.dtype != np.uint8:
        x[...] = images[rows]
        return
    if not images.flags.c_contiguous:
        images, rows = images[rows], np.arange(size)
    scale = _constant(1 / 255, shape, x.dtype) if scale is None else _full(scale, shape, x.dtype)
    offset = _constant(0, shape, x.dtype) if offset is None else _full(offset, shape, x.dtype)
    pixels, batch = images.reshape(len(images), shape[0], -1), x.reshape(size, shape[0], -1)
    if not any(changes):
        _gather_plain(pixels, rows, batch, scale, offset)
        return
    key = np.uint64(seed), np.uint32(step if isinstance(step, int) else int(step.item()) & 0xFFFFFFFF)
    _gather(pixels, rows, batch, scale, offset, shape[2], changes, key, first_row)


@jit
def _gather_targets(targets: Any, rows: Any, y: Any) -> None:
    for r in range(rows.size):
        for k in range(y.shape[1]):
            y[r, k] = targets[rows[r], k]


def gather_targets(targets: np.ndarray, order: np.ndarray, *, start: Any, size: int) -> np.ndarray:
    y = np.empty((size, targets.shape[1]), targets.dtype)
    run(_gather_rows, targets, order, start, y)
    return y


def _gather_rows(targets: np.ndarray, order: np.ndarray, start: Any, y: np.ndarray) -> None:
    _gather_targets(np.ascontiguousarray(targets), _rows(order, start, 0, len(y), len(targets)), y)


@jit
def _all_within(rows: Any, n: int) -> Any:
    within = True
    for row in rows:
        within &= 0 <= row < n
    return within


def _rows(order: np.ndarray, start: Any, first_row: int, size: int, n: int) -> np.ndarray:
    if not isinstance(start, int):
        start, last = int(start.item()), len(order) - size - first_row
        if not 0 <= start <= last:
            raise ConfigError(f"start must be between 0 and {last}, got {start}")
    first = start + first_row
    rows = np.ascontiguousarray(order[first : first + size], np.int64)
    if not _all_within(rows, n):
        low, high = rows.min(), rows.max()
        raise ConfigError(f"order must hold numbers in [0, {n}), got {low if low < 0 else high}")
    return rows


@functools.lru_cache(maxsize=8)
def _constant(value: float, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """The same value for every pixel; shared, so treat as read-only."""
    return _full(dtype.type(value), shape, dtype)


def _full(values: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    full = np.empty(shape, dtype)
    full[...] = values
    return full.reshape(-1)
