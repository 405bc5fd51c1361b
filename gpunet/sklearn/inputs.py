"""From the arrays that an estimator is given to a model's inputs: shapes of images, pixels, standardised features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.backend import Array, Backend
from gpunet.data.loader import Loader
from gpunet.data.scaling import Scaling, scaling_of
from gpunet.dlpack import on_host
from gpunet.errors import ConfigError, ShapeError
from gpunet.nn import Layer
from gpunet.training.evaluation import predictions


def rows_of(X: Any, shape: tuple[int, ...] | None) -> tuple[Any, tuple[int, ...] | None]:
    """Images as rows, (n, H*W*C), and their shape (H, W, C); anything else as it is, with the given `shape`.

    Raises:
        ShapeError: the images have another shape than `shape`. DeviceError: they are on a GPU.
    """
    X = on_host(X)
    if isinstance(X, (list, tuple)) and len(X) and np.ndim(X[0]) in (2, 3):
        X = np.asarray(X)
    if getattr(X, "ndim", 2) not in (3, 4):
        return X, shape
    images = np.asarray(X)
    found = (*images.shape[1:], 1) if images.ndim == 3 else images.shape[1:]
    if shape is not None and found != shape:
        raise ShapeError(f"expected images of shape {shape}, got {found}: resize them, or leave out image_shape")
    return images.reshape(len(images), math.prod(found)), found


def checked_image_shape(shape: Sequence[int] | None) -> tuple[int, ...] | None:
    """`shape` as (H, W, C); of (H, W), C is 1.

    Raises:
        ConfigError: it is neither.
    """
    if shape is None:
        return None
    try:
        sides = tuple(int(side) for side in shape)
    except (TypeError, ValueError):
        sides = ()
    if len(sides) not in (2, 3) or min(sides) < 1:
        raise ConfigError(f"image_shape must be (height, width) or (height, width, channels), got {shape!r}")
    return sides if len(sides) == 3 else (*sides, 1)


@dataclass(frozen=True, eq=False)
class Preparation:
    """What was recorded of the training data: how rows become inputs."""

    shape: tuple[int, ...]
    """Of an input: (F,) or (H, W, C)."""
    scaling: Scaling | None
    """Of pixels; None for features."""
    mean: np.ndarray | None
    deviation: np.ndarray | None
    """float64, of each feature, or of each channel of images of floats."""

    @classmethod
    def of(cls, rows: np.ndarray, shape: tuple[int, ...], *, images: bool, per_channel: bool) -> Preparation:
        """That of the training data `rows`, (n, F); uint8 `images` are pixels, all else is standardised."""
        if images and rows.dtype == np.uint8:
            pixels = rows.reshape(len(rows), *shape)
            return cls(shape, scaling_of(pixels, "channel" if per_channel else "pixel"), None, None)
        values = rows.astype(np.float64).reshape(len(rows), *shape)
        axes = tuple(range(values.ndim - 1)) if per_channel else 0
        mean, deviation = values.mean(axis=axes), values.std(axis=axes)
        # what rounding leaves of a constant feature is no deviation
        constant = deviation <= 10 * np.finfo(np.float64).eps * np.maximum(np.abs(mean), 1e-300) * np.sqrt(len(rows))
        return cls(shape, None, mean, np.where(constant, 1.0, deviation))

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """`rows` as uint8 images, or as standardised float32 features.

        Raises:
            ShapeError: the estimator was fitted on uint8 pixels, and these are of another dtype.
        """
        shaped = rows.reshape(len(rows), *self.shape)
        if self.scaling is not None:
            if rows.dtype != np.uint8:
                raise ShapeError(f"the estimator was fitted on uint8 pixels, got {rows.dtype}: give it uint8, too")
            return np.ascontiguousarray(shaped)
        assert self.mean is not None and self.deviation is not None
        return ((shaped.astype(np.float64) - self.mean) / self.deviation).astype(np.float32)

    def loader(self, rows: np.ndarray, targets: np.ndarray, backend: Backend, **options: Any) -> Loader:
        """`rows` with `targets` on the device; `options` are those of the loader.

        Raises:
            ConfigError: augmentation of anything but uint8 images.
        """
        scaling: dict[str, Any] = {} if self.scaling is None else {**self.scaling.to_arrays()}
        return Loader(self.inputs(rows), targets, backend=backend, **scaling, **options)

    def outputs(self, model: Layer, rows: np.ndarray, backend: Backend, last: Any = None) -> np.ndarray:
        """What `model`, followed by the function `last` on the device, makes of each of the `rows`, on the host."""

        def outputs(x: Array) -> Array:
            return model(x) if last is None else last(model(x))

        return predictions(outputs, rows, lambda filled: self.loader(filled, np.zeros(len(filled), np.int32), backend))
