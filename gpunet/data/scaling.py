"""Scaling of pixels to model inputs: x = pixel * scale + offset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpunet.errors import ConfigError, DataError

CHANNEL_FLOOR = 1 / 255
"""Lower bound on a channel's standard deviation: one grey level; a channel that varies less carries no information."""

PIXEL_FLOOR = 0.05
"""Lower bound on a pixel's standard deviation. Border pixels are almost always 0: Fashion-MNIST's first one has a
standard deviation of 0.0004, so that without a bound, one grey level in it would count as ten standard deviations, and
full white as two thousand."""

_BLOCK = 512  # images summed at a time


@dataclass(frozen=True, eq=False)
class Scaling:
    """Scale and offset of every pixel, both float32 (1, 1, C) or (H, W, C): x = pixel * scale + offset.

    Raises:
        DataError: the arrays have other dtypes or shapes, or hold a NaN or infinity.
    """

    scale: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        for name, array in self.to_arrays().items():
            if array.dtype != np.float32 or array.ndim != 3 or not np.isfinite(array).all():
                raise DataError(f"{name} must be finite float32 (H, W, C), got {array.dtype} {array.shape}")
        if self.scale.shape != self.offset.shape:
            raise DataError(f"scale has shape {self.scale.shape}, but offset has {self.offset.shape}")

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As plain arrays, for a checkpoint."""
        return {"scale": self.scale, "offset": self.offset}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Scaling:
        """The inverse of :meth:`to_arrays`.

        Raises:
            DataError: an array is missing or invalid.
        """
        missing = [name for name in ("scale", "offset") if name not in arrays]
        if missing:
            raise DataError(f"the scaling lacks {' and '.join(missing)}")
        return cls(arrays["scale"], arrays["offset"])


def scaling_of(images: np.ndarray, standardize: str) -> Scaling:
    """The scaling of training images, uint8 (n, H, W, C), to [0, 1], followed by standardisation by `standardize`.

    ``none``: nothing more. ``channel``: subtract the mean and divide by the standard deviation of each channel.
    ``pixel``: the same per pixel. Standard deviations are biased (divided by n, as in scikit-learn's StandardScaler)
    and at least CHANNEL_FLOOR or PIXEL_FLOOR. The sums are integers, hence exact. Pass the training images alone:
    statistics of validation or test images would leak information.

    Raises:
        ConfigError: `standardize` is not one of the three.
        DataError: the images are not uint8 (n, H, W, C) or there are none.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise DataError(f"expected images uint8 (n, H, W, C), got {images.dtype} {images.shape}")
    n, height, width, channels = images.shape
    if standardize == "none":
        shape = (1, 1, channels)
        return Scaling(np.full(shape, 1 / 255, np.float32), np.zeros(shape, np.float32))
    if standardize not in ("channel", "pixel"):
        raise ConfigError(f"standardize must be one of none, channel, pixel; got {standardize!r}")
    total, squares = _sums(images)
    floor = PIXEL_FLOOR
    if standardize == "channel":
        total, squares = (array.sum(axis=(0, 1), keepdims=True) for array in (total, squares))
        n, floor = n * height * width, CHANNEL_FLOOR
    # Python ints: n * squares may exceed 64 bits, and the difference must not suffer from cancellation.
    pairs = zip(total.ravel().tolist(), squares.ravel().tolist(), strict=True)
    deviations = [math.sqrt(n * square - value * value) / (255 * n) for value, square in pairs]
    deviation = np.maximum(np.array(deviations).reshape(total.shape), floor)
    mean = total / (255.0 * n)
    return Scaling((1 / (255 * deviation)).astype(np.float32), (-mean / deviation).astype(np.float32))


def _sums(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares of each pixel over the images, int64 (H, W, C)."""
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros_like(total)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.int32)
        total += block.sum(axis=0)
        squares += (block * block).sum(axis=0)
    return total, squares
