"""Batches one pixel at a time, with the pure-Python Philox."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.ops.random import AUGMENT
from gpunet.ops.random import reference as random


def _augmented(image: np.ndarray, row: int, flip: bool, shift: int, cutout: int, seed: int, step: int) -> np.ndarray:
    height, width, _ = image.shape
    first = random.counter_words(seed, AUGMENT, step, 2 * row)
    second = random.counter_words(seed, AUGMENT, step, 2 * row + 1)
    down, right = [(word * (2 * shift + 1) >> 32) - shift for word in first[1:3]]
    shifted = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                shifted[i, j] = image[i - down, j - right]
    result = shifted[:, ::-1].copy() if flip and first[0] >= 2**31 else shifted
    top, left = (second[0] * height >> 32) - cutout // 2, (second[1] * width >> 32) - cutout // 2
    for i in range(top, top + cutout):
        for j in range(left, left + cutout):
            if 0 <= i < height and 0 <= j < width:
                result[i, j] = 0
    return result


def gather_batch(
    images: np.ndarray,
    labels: np.ndarray,
    order: np.ndarray,
    *,
    start: Any,
    size: int,
    scale: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    flip: bool = False,
    shift: int = 0,
    cutout: int = 0,
    seed: int = 0,
    step: Any = 0,
    first_row: int = 0,
    dtype: Any = np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    start, step = int(np.asarray(start).reshape(-1)[0]), int(np.asarray(step).reshape(-1)[0]) & random.WORD
    x = np.empty((size, *images.shape[1:]), dtype)
    y = np.empty(size, np.int32)
    for row in range(size):
        number = first_row + row
        image = images[order[start + number]]
        if images.dtype == np.uint8:
            pixels = _augmented(image, number, flip, shift, cutout, seed, step).astype(dtype)
            image = pixels / 255 if scale is None else pixels * scale
            if offset is not None:
                image = image + offset
        x[row] = image
        y[row] = labels[order[start + number]]
    return x, y


def gather_targets(targets: np.ndarray, order: np.ndarray, *, start: Any, size: int) -> np.ndarray:
    first = int(np.asarray(start).reshape(-1)[0])
    y = np.empty((size, targets.shape[1]), targets.dtype)
    for row in range(size):
        y[row] = targets[order[first + row]]
    return y
