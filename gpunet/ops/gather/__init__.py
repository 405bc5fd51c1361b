"""Batches of a training step: rows gathered from the data set in a given order, augmented and scaled in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backend import Array
from gpunet.checks import FLOAT_DTYPES, check_float, check_int, check_labels, check_rank
from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import random
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows


def gather_batch(
    images: Array,
    labels: Array,
    order: Array,
    *,
    start: int | Array,
    size: int,
    scale: Array | None = None,
    offset: Array | None = None,
    flip: bool = False,
    shift: int = 0,
    cutout: int = 0,
    seed: int = 0,
    step: int | Array = 0,
    first_row: int = 0,
    dtype: Any = np.float32,
) -> tuple[Array, Array]:
    """The rows ``order[start:start + size]`` of a data set as one batch.

    Images are augmented in the following order, with zeros where the source lies outside the image, and then scaled:
    x = pixel * scale + offset.

    1. shift: by random numbers of pixels down and to the right, each uniform in [-shift, shift] (the random crop of the
       padded image in He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2).
    2. flip: mirrored left-right with probability 1/2.
    3. cutout: a square around a uniformly chosen pixel is zeroed, clipped at the border (DeVries & Taylor, "Improved
       Regularization of Convolutional Neural Networks with Cutout", arXiv:1708.04552, 2017, section 3.2). Around
       pixel c, it covers c - cutout // 2 to c - cutout // 2 + cutout - 1.

    Row r of the batch uses counters 2 r and 2 r + 1 of (seed, ``random.AUGMENT``, step): of the first, the top bit of
    word 0 decides on the flip and words 1 and 2 give the shifts down and right; of the second, words 0 and 1 give row
    and column of the cutout's centre. A word w maps to [0, n) as w * n >> 32.

    Args:
        images: (n, H, W, C) uint8 pixels; or features, (n, F) or (n, H, W, C), float32 or float64, which are only
            gathered. C-contiguous is fastest.
        labels: (n,), integers.
        order: (m,), integers in [0, n).
        start: first position in `order`, or a one-element integer array, read at run time.
        size: number of rows, 0 to m.
        scale, offset: (H, W, C) or (1, 1, C), `dtype`; by default 1/255 and 0, so that x is in [0, 1].
        flip, shift, cutout: the augmentation; shift < min(H, W), cutout <= max(H, W).
        seed: in [0, 2**64).
        step: in [0, 2**32), or a one-element integer array, read modulo 2**32 at run time.
        first_row: the result is rows `first_row` to ``first_row + size - 1`` of the batch that begins at `start`, with
            the augmentation that they have in it.
        dtype: float32 or float64.

    Returns:
        (x, y): x is (size, H, W, C) or (size, F), `dtype`; y is (size,), int32: the labels of the rows.

    Raises:
        ShapeError: an array does not have the shape above.
        DTypeError: an array, or `dtype`, does not have the dtype above.
        ConfigError: a number is out of range (entries of `order` and one-element arrays are checked on the CPU only),
            or augmentation or scaling was requested for features.
        DeviceError: the arrays are on different devices.

    >>> images = np.uint8([7, 0, 255]).reshape(3, 1, 1, 1)
    >>> x, y = gn.ops.gather_batch(images, np.array([7, 8, 9]), np.array([2, 1, 0]), start=0, size=2)
    >>> x.ravel(), y
    (array([1., 0.], dtype=float32), array([9, 8], dtype=int32))
    """
    implementation(__name__, images, labels, order)  # raises unless all are arrays
    dtype = np.dtype(dtype)
    if dtype not in FLOAT_DTYPES:
        raise DTypeError(f"dtype must be float32 or float64, got {dtype}")
    if images.dtype == np.uint8:
        check_rank("uint8 images", images, 4, "(n, H, W, C)")
    elif images.dtype not in FLOAT_DTYPES:
        raise DTypeError(f"images must be uint8, or features of float32 or float64, got {images.dtype}")
    elif images.ndim not in (2, 4):
        raise ShapeError(f"features must have shape (n, F) or (n, H, W, C), got {tuple(images.shape)}")
    elif scale is not None or offset is not None or flip or shift or cutout:
        raise ConfigError(
            f"only uint8 images can be augmented or scaled, got {images.dtype} features: "
            "leave out scale, offset, flip, shift and cutout"
        )
    check_labels(labels, images.shape[0])
    size, start = _check_rows(order, start, size, first_row)
    if images.dtype == np.uint8:
        _check_augmentation(images.shape[1:], dtype, scale, offset, shift, cutout)
    seed, step = random.check_seed(seed), random.check_scalar("step", step)
    on_device = [value for value in (start, step) if not isinstance(value, int)]
    impl = implementation(__name__, images, labels, order, scale, offset, *on_device)
    if not size:
        return no_rows((0, *images.shape[1:]), images, dtype), no_rows((0,), images, np.int32)
    x, y = impl.gather_batch(
        images,
        labels,
        order,
        start=start,
        size=size,
        scale=scale,
        offset=offset,
        flip=bool(flip),
        shift=shift,
        cutout=cutout,
        seed=seed,
        step=step,
        first_row=first_row,
        dtype=dtype,
    )
    return x, y


def gather_targets(targets: Array, order: Array, *, start: int | Array, size: int) -> Array:
    """The rows ``order[start:start + size]`` of targets that are numbers: those of the rows of :func:`gather_batch`.

    Args:
        targets: (n, K), float32 or float64. C-contiguous is fastest.
        order, start, size: as for :func:`gather_batch`.

    Returns:
        (size, K), of the dtype of `targets`.

    Raises:
        ShapeError, DTypeError, ConfigError, DeviceError: as :func:`gather_batch`. What it refuses on the CPU only makes
            rows of NaNs on a GPU.

    >>> gn.ops.gather_targets(np.array([[0.5], [1.5], [2.5]]), np.array([2, 0, 1]), start=1, size=2)
    array([[0.5],
           [1.5]])
    """
    implementation(__name__, targets, order)  # raises unless both are arrays
    check_float(targets=targets)
    check_rank("targets", targets, 2, "(n, K)")
    size, start = _check_rows(order, start, size)
    impl = implementation(__name__, targets, order, *([] if isinstance(start, int) else [start]))
    if not size or not targets.shape[1]:
        return no_rows((size, targets.shape[1]), targets)
    found: Array = impl.gather_targets(targets, order, start=start, size=size)
    return found


def _check_rows(order: Array, start: int | Array, size: int, first_row: int = 0) -> tuple[int, int | Array]:
    check_rank("order", order, 1, "(m,)")
    if order.dtype.kind not in "iu":
        raise DTypeError(f"order must be integers, got {order.dtype}")
    size = check_int("size", size, high=order.shape[0])
    first_row = check_int("first_row", first_row, high=order.shape[0] - size)
    return size, random.check_scalar("start", start, high=order.shape[0] - size - first_row)


def _check_augmentation(
    shape: tuple[int, int, int], dtype: Any, scale: Array | None, offset: Array | None, shift: int, cutout: int
) -> None:
    height, width, channels = shape
    if 0 in shape:
        raise ShapeError(f"images have no pixels: (H, W, C) is {tuple(shape)}")
    check_int("shift", shift, high=min(height, width) - 1)
    check_int("cutout", cutout, high=max(height, width))
    for name, array in (("scale", scale), ("offset", offset)):
        if array is None:
            continue
        if tuple(array.shape) not in (tuple(shape), (1, 1, channels)):
            raise ShapeError(f"{name} must have shape {tuple(shape)} or {(1, 1, channels)}, got {tuple(array.shape)}")
        if array.dtype != dtype:
            raise DTypeError(f"{name} must be {dtype} like the batch, got {array.dtype}")
