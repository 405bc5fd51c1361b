"""The batch on the GPU: one launch of ``kernels/gather.cu``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpunet import cuda
from gpunet.backend import Array
from gpunet.errors import ConfigError

_THREADS = 256
_ELEMENTS = 1024  # of a row that are worth a block of their own
_MAX_BLOCKS = 65535  # along y


def gather_batch(
    images: Array,
    labels: Array,
    order: Array,
    *,
    start: Any,
    size: int,
    scale: Array | None,
    offset: Array | None,
    flip: bool,
    shift: int,
    cutout: int,
    seed: int,
    step: Any,
    first_row: int,
    dtype: Any,
) -> tuple[Array, Array]:
    """As on the CPU, but for what only a look at the device's numbers could tell: rows with an entry of `order` that is
    out of range, or all rows where `start` is, have the label -1 and images of no meaning.

    int32 labels and an int64 order are read as they are; others, and whatever is not C-contiguous, are copied first.
    """
    if not len(images):
        raise ConfigError("order must hold numbers in [0, 0): there are no images")
    images, labels, order = cuda.contiguous(images), cuda.converted(labels, np.int32), cuda.converted(order, np.int64)
    shape = images.shape[1:]
    x, y = cuda.empty((size, *shape), dtype, images), cuda.empty(size, np.int32, images)
    data = images, labels, order, len(images), order.size, *cuda.scalar(start, np.int64), first_row
    length = math.prod(shape)
    grid = size, min(max(1, cuda.ceil_div(length, _ELEMENTS)), _MAX_BLOCKS)
    if images.dtype != np.uint8:
        kernel = "gather_float" if images.dtype == np.float32 else "gather_double"
        cuda.launch("gather", kernel, grid, _THREADS, *data, length, x, y, real=dtype)
        return x, y
    scaling = *_flat(scale), 1 / 255, *_flat(offset)
    augmentation = flip, shift, cutout, seed, *cuda.scalar(step, np.int64)
    cuda.launch("gather", "gather_images", grid, _THREADS, *data, *shape, *scaling, *augmentation, x, y, real=dtype)
    return x, y


def gather_targets(targets: Array, order: Array, *, start: Any, size: int) -> Array:
    """As on the CPU, but for rows with an entry of `order` that is out of range, or all rows where `start` is: NaN."""
    if not len(targets):
        raise ConfigError("order must hold numbers in [0, 0): there are no targets")
    targets, order = cuda.contiguous(targets), cuda.converted(order, np.int64)
    n, columns = targets.shape
    y = cuda.empty((size, columns), targets.dtype, targets)
    data = targets, order, n, order.size, *cuda.scalar(start, np.int64), size, columns
    cuda.launch("gather", "gather_targets", cuda.ceil_div(y.size, _THREADS), _THREADS, *data, y, real=targets.dtype)
    return y


def _flat(array: Array | None) -> tuple[Array | None, int]:
    """A pointer's argument and its number of elements."""
    return (None, 0) if array is None else (cuda.contiguous(array), array.size)
