"""Scaling of pixels to model inputs: x = pixel * scale + offset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gpunet.data.dataset import EIGHT_BITS
from gpunet.data.shards import Images
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

    >>> from gpunet.data.scaling import Scaling
    >>> scaling = Scaling(np.full((1, 1, 1), 0.5, np.float32), np.ones((1, 1, 1), np.float32))
    >>> scaling.apply(np.float32([0, 4]).reshape(2, 1, 1, 1)).ravel()  # 0.5 * x + 1
    array([1., 3.], dtype=float32)
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

    def apply(self, images: np.ndarray) -> np.ndarray:
        """`images` (n, H, W, C) scaled on the host, float32: for those that are stored as floats."""
        scaled = np.empty(images.shape, np.float32)
        scale, offset = self.scale.astype(np.float64), self.offset.astype(np.float64)
        for start in range(0, len(images), _BLOCK):
            scaled[start : start + _BLOCK] = images[start : start + _BLOCK] * scale + offset
        return scaled

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


def scaling_of(images: Images, standardize: str, value_range: tuple[float, float] = EIGHT_BITS) -> Scaling:
    """The scaling of training images (n, H, W, C) from `value_range` to [0, 1], then standardised by `standardize`.

    ``none``: nothing more. ``channel``: subtract the mean and divide by the standard deviation of each channel.
    ``pixel``: the same per pixel. Standard deviations are biased (divided by n, as in scikit-learn's StandardScaler)
    and at least CHANNEL_FLOOR or PIXEL_FLOOR. Pass the training images alone: statistics of validation or test images
    would leak information. The sums over uint8 images are integers, hence exact.

    Raises:
        ConfigError: `standardize` is not one of the three.
        DataError: the images are not uint8 or float32 (n, H, W, C) or there are none.

    >>> from gpunet.data.scaling import scaling_of
    >>> images = np.uint8([0, 255]).reshape(2, 1, 1, 1)
    >>> scaling_of(images, "none").apply(images).ravel()
    array([0., 1.], dtype=float32)
    >>> scaling_of(images, "channel").apply(images).ravel().round(5)  # mean 0, standard deviation 1
    array([-1.,  1.], dtype=float32)
    """
    if images.dtype not in (np.uint8, np.float32) or images.ndim != 4 or images.size == 0:
        raise DataError(f"expected images uint8 or float32 (n, H, W, C), got {images.dtype} {images.shape}")
    low, span = value_range[0], value_range[1] - value_range[0]
    if standardize == "none":
        shape = (1, 1, images.shape[3])
        return Scaling(np.full(shape, 1 / span, np.float32), np.full(shape, 0.0 - low / span, np.float32))
    if standardize not in ("channel", "pixel"):
        raise ConfigError(f"standardize must be one of none, channel, pixel; got {standardize!r}")
    by_channel = standardize == "channel"
    mean, deviation = (_exact_moments if images.dtype == np.uint8 else _moments)(images, by_channel, span)
    deviation = np.maximum(deviation, CHANNEL_FLOOR if by_channel else PIXEL_FLOOR)
    return Scaling((1 / (span * deviation)).astype(np.float32), (-mean / deviation).astype(np.float32))


def scaling_of_table(features: Images, standardize: str) -> Scaling:
    """The scaling of training features, float32 (n, 1, 1, F): to mean 0 and deviation 1 each, unless `standardize` is
    ``none``. A feature that is constant becomes 0.
    """
    if standardize == "none":
        return Scaling(np.ones(features.shape[1:], np.float32), np.zeros(features.shape[1:], np.float32))
    mean, deviation = _moments(features, by_channel=True, unit=1.0)
    # float32 rounds a mean by up to half an eps: a smaller deviation is no more than that
    known = deviation > np.finfo(np.float32).eps * np.abs(mean)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=known)
    return Scaling(scale.astype(np.float32), (-mean * scale).astype(np.float32))


def _exact_moments(images: Images, by_channel: bool, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of uint8 images in `unit`s, per channel (1, 1, C) or pixel (H, W, C), float64."""
    n = len(images)
    total, squares = _sums(images)
    if by_channel:
        total, squares = (array.sum(axis=(0, 1), keepdims=True) for array in (total, squares))
        n *= images.shape[1] * images.shape[2]
    # Python ints: n * squares may exceed 64 bits, and the difference must not suffer from cancellation.
    pairs = zip(total.ravel().tolist(), squares.ravel().tolist(), strict=True)
    deviations = [math.sqrt(n * square - value * value) / (unit * n) for value, square in pairs]
    return total / (unit * n), np.array(deviations).reshape(total.shape)


def _moments(images: Images, by_channel: bool, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """The same of float32 images, in two passes of float64."""
    axes = (0, 1, 2) if by_channel else (0,)
    blocks = range(0, len(images), _BLOCK)
    n = images.size // images.shape[3] if by_channel else len(images)

    def mean_of(terms: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        parts = [terms(images[i : i + _BLOCK].astype(np.float64)).sum(axis=axes, keepdims=True)[0] for i in blocks]
        mean: np.ndarray = np.sum(parts, axis=0) / n
        return mean

    mean = mean_of(lambda block: block)
    return mean / unit, np.sqrt(mean_of(lambda block: (block - mean) ** 2)) / unit


def _sums(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares of each pixel over the images, int64 (H, W, C)."""
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros_like(total)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK].astype(np.int32)
        total += block.sum(axis=0)
        squares += (block * block).sum(axis=0)
    return total, squares
