"""Choosing what to show of a run: the strongest filters, the channels that vary most, the most confident mistakes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpunet.errors import ShapeError

_MOST_FILTERS = 64
_MOST_CHANNELS = 8


@dataclass(frozen=True)
class Filters:
    """The filters of a first layer, to be shown as images."""

    weight: np.ndarray
    """(KH, KW, C, filters), float64."""
    order: np.ndarray
    """The indices of those to show, in descending order of their norm."""
    largest: float
    """The largest absolute weight among those to show."""
    limit: float
    """The absolute weight at which the colours saturate, so that a single outlier does not make all others pale."""

    @property
    def count(self) -> str:
        """For example ``64 of 128 filters``."""
        filters = self.weight.shape[-1]
        return f"{filters} filters" if len(self.order) == filters else f"{len(self.order)} of {filters} filters"


def strongest_filters(weight: np.ndarray, image_shape: tuple[int, int, int] | None = None) -> Filters:
    """The filters with the largest norm in a first layer's weight.

    Args:
        weight: (KH, KW, C, filters) of a convolution, or (H * W * C, units) of a linear layer on images.
        image_shape: (H, W, C) for a linear layer; without it, a square grey image.

    Raises:
        ShapeError: the weight has the wrong rank or does not match the image shape.
    """
    weight = np.asarray(weight, np.float64)
    if weight.ndim == 2:
        side = math.isqrt(len(weight))
        shape = image_shape or (side, side, 1)
        if math.prod(shape) != len(weight):
            raise ShapeError(
                f"a linear layer of {len(weight)} inputs does not fit images of shape {tuple(shape)}; give image_shape"
            )
        weight = weight.reshape(*shape, -1)
    if weight.ndim != 4 or weight.size == 0:
        raise ShapeError(f"expected a weight (KH, KW, C, filters) or (inputs, units), got shape {weight.shape}")
    filters = weight.shape[-1]
    order = np.argsort(-np.linalg.norm(weight.reshape(-1, filters), axis=0), kind="stable")[:_MOST_FILTERS]
    sizes = np.abs(weight[..., order])
    sizes = sizes[np.isfinite(sizes)]
    largest = float(sizes.max(initial=0.0))
    limit = (float(np.quantile(sizes, 0.995)) if sizes.size else 0.0) or largest or 1.0
    return Filters(weight, order, largest, limit)


def channels_that_vary(maps: np.ndarray) -> np.ndarray:
    """The eight channels of `maps` (H, W, C) with the largest standard deviation; ties go to the larger mean."""
    return np.lexsort((-maps.mean(axis=(0, 1)), -maps.std(axis=(0, 1))))[:_MOST_CHANNELS]


def most_confident_mistakes(labels: np.ndarray, predictions: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The indices of all wrong predictions, in descending order of confidence; all arrays (n,)."""
    wrong = np.flatnonzero(labels != predictions)
    return wrong[np.argsort(-confidence[wrong], kind="stable")]
