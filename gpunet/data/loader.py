"""A data set on the device, served in batches."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpunet import ops
from gpunet.backend import Array, Backend, backend_of
from gpunet.data.scaling import Scaling
from gpunet.data.shards import Images
from gpunet.devices import get_backend
from gpunet.errors import ConfigError, DataError
from gpunet.ops import random

WINDOW = 4
"""Blocks whose images are shuffled among each other; see :func:`in_blocks`."""

_FIRST_FLIP = 2**32 - 1  # a step of the shuffle stream that no epoch uses


def _as_array(values: Any, what: str) -> Any:
    """`values` if they are an array, on any device, else a NumPy array of them; DataError if they make up none."""
    if hasattr(values, "dtype"):
        return values
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} must be an array, or a list that makes up one: {error}") from error


def _checked_labels(labels: Any) -> np.ndarray:
    """`labels` as int32 (n,); DataError unless they are whole numbers from 0 that int32 can hold."""
    found = np.asarray(_as_array(labels, "labels"))
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(
            f"labels must be integers of shape (n,), got {found.dtype} of shape {found.shape}: convert class names or "
            "one-hot rows to class indices first"
        )
    if found.size and not 0 <= int(found.min()) <= int(found.max()) <= np.iinfo(np.int32).max:
        raise DataError(f"labels must be class indices from 0, got values from {found.min()} to {found.max()}")
    return found.astype(np.int32)


def in_blocks(order: np.ndarray, blocks: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """A shuffled `order` in which only a few blocks of images are shown at a time, so that they are read from the disk
    together: the blocks are shuffled, and the images of every WINDOW of them, as they then follow, among each other.

    order: (n,) the order of all images. blocks: (n,) the number of the block of each image.
    """
    place = random.PhiloxStream(seed, random.BLOCKS, epoch).permutation(int(blocks.max()) + 1)
    window = place[blocks] // WINDOW
    return order[np.argsort(window[order], kind="stable")]


def _mirror(images: Array) -> Array:
    return backend_of(images).copy(images[:, :, ::-1])


class Loader:
    """Images (or features) and labels on a device: shuffled, augmented batches for training, plain ones for evaluation.

    Args:
        images: (n, H, W, C) uint8, or float features of any shape (n, ...), which are returned unchanged.
        labels: (n,) integers of any type, class indices from 0. Both may be lists.
        backend: the device; by default that of :func:`gpunet.get_backend`.
        scale, offset: a batch is pixel * scale + offset (for uint8 images), broadcastable to (H, W, C).
        flip, shift, cutout: augmentation of training batches; see :func:`gpunet.ops.gather_batch`.
        alternate_flip: flip each training image every other epoch (K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
            Single GPU", arXiv:2404.00498, 2024), so that two consecutive epochs show both versions of it. It doubles
            the memory for the images.
        dtype: of the batches, float32 or float64.
        blocks: (n,) integers: shuffle in two levels; see :func:`in_blocks`.
        content: what identifies the images in :meth:`digest`, if that is known, instead of all their bytes.

    Raises:
        DataError: there are no images, or not as many labels as images, or they are no arrays of numbers.
        DeviceError: there is no such device.
        ConfigError: augmentation is requested for data other than uint8 images.
    """

    def __init__(
        self,
        images: Images,
        labels: np.ndarray,
        *,
        backend: Backend | None = None,
        scale: np.ndarray | None = None,
        offset: np.ndarray | None = None,
        flip: bool = False,
        alternate_flip: bool = False,
        shift: int = 0,
        cutout: int = 0,
        dtype: Any = "float32",
        blocks: np.ndarray | None = None,
        content: str | None = None,
    ) -> None:
        images, labels = _as_array(images, "images"), _checked_labels(labels)
        if not images.ndim or images.dtype.kind not in "uif":
            raise DataError(f"images must be numbers (n, ...), got {images.dtype} of shape {tuple(images.shape)}")
        if len(images) == 0 or len(images) != len(labels):
            raise DataError(f"expected as many labels as images, at least one; got {len(labels)} and {len(images)}")
        if images.dtype != np.uint8 and (flip or alternate_flip or shift or cutout):
            raise ConfigError("flip, alternate_flip, shift and cutout need images, not features: leave them out")
        if flip and alternate_flip:
            raise ConfigError("flip and alternate_flip are mutually exclusive: give only one of them")
        self.backend = backend = backend or get_backend()
        self.size = len(images)
        self.input_shape: tuple[int, ...] = tuple(images.shape[1:])
        self.alternate_flip = alternate_flip
        self._of_pixels = images.dtype == np.uint8
        self._blocks, self._content = blocks, content
        self._scaling: dict[str, Any] = {
            "scale": None if scale is None else backend.asarray(scale, dtype),
            "offset": None if offset is None else backend.asarray(offset, dtype),
            "dtype": np.dtype(dtype),
        }
        self._augmentation: dict[str, Any] = {"flip": flip, "shift": shift, "cutout": cutout}
        self._store(images, labels)

    def _store(self, images: Any, labels: np.ndarray) -> None:
        """Move the images and labels to the device, with the orders in which they are shown."""
        backend = self.backend
        # With alternate_flip, the mirrored images are stored after the others: the order decides which one is shown.
        if self.alternate_flip:
            with backend_of(images).active():
                images = np.concatenate([images, _mirror(images)])
            labels = np.concatenate([labels, labels])
        self._images = backend.asarray(images)
        self._labels = backend.asarray(labels)
        self._in_order = backend.asarray(np.arange(self.size, dtype=np.int64))
        self._order = backend.copy(self._in_order)

    @property
    def images(self) -> Array:
        """The images, or features, on the device."""
        return self._images[: self.size]

    @property
    def labels(self) -> Array:
        """The labels, int32, on the device."""
        return self._labels[: self.size]

    @property
    def scaling(self) -> Scaling | None:
        """The scaling of the images' pixels, 1 and 0 if none was given; None for features.

        Raises:
            ConfigError: it was given in float64, with more digits than float32 has.
        """
        if not self._of_pixels:
            return None
        given = [self._scaling[name] for name in ("scale", "offset")]
        shapes = [(1, 1, self.input_shape[2]), *(tuple(array.shape) for array in given if array is not None)]
        arrays = []
        for array, default in zip(given, (1.0, 0.0), strict=True):
            host = np.asarray(default) if array is None else self.backend.to_numpy(array)
            arrays.append(np.broadcast_to(host, np.broadcast_shapes(*shapes)).astype(np.float32))
            if (arrays[-1] != host).any():
                raise ConfigError("the scale and the offset must be float32 to be stored in a checkpoint")
        return Scaling(*arrays)

    def digest(self) -> str:
        """SHA-256 of everything that determines the batches: images, labels, their order, scaling and augmentation."""
        settings = {**self._augmentation, "alternate_flip": self.alternate_flip, "dtype": str(self._scaling["dtype"])}
        if self._blocks is not None:
            settings["blocks"] = hashlib.sha256(self._blocks.astype("<i8").tobytes()).hexdigest()
        if self._content is not None:
            settings["content"] = self._content
        found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        images = None if self._content is not None else self.images
        for array in (images, self.labels, self._scaling["scale"], self._scaling["offset"]):
            if array is not None:
                host = np.ascontiguousarray(self.backend.to_numpy(array))
                found.update(f"{host.dtype.str}{host.shape}".encode())
                found.update(host.data)
        return found.hexdigest()

    def mirrored(self) -> Loader:
        """A loader of the mirrored images, without augmentation.

        Raises:
            ConfigError: the loader holds features.
        """
        if not self._of_pixels:
            raise ConfigError("only images can be mirrored, not features")
        mirrored = copy.copy(self)
        mirrored._augmentation, mirrored.alternate_flip = {}, False
        mirrored._content = None
        mirrored._store_mirrored(self)
        return mirrored

    def _store_mirrored(self, other: Loader) -> None:
        """Hold the mirror images of those of `other`."""
        self._images, self._labels = _mirror(other.images), other.labels

    def shuffle(self, seed: int, epoch: int) -> None:
        """Shuffle the training images for `epoch`: the order depends only on `seed` and `epoch`."""
        self.backend.assign(self._order, self._shuffled(seed, epoch))  # in place: a captured step refers to this array

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        """The order of an epoch, int64 (n,): numbers of images, or of mirror images, which follow all images."""
        order = random.PhiloxStream(seed, random.SHUFFLE, epoch).permutation(self.size)
        if self._blocks is not None:
            order = in_blocks(order, self._blocks, seed, epoch)
        if self.alternate_flip:
            mirrored_first = random.PhiloxStream(seed, random.SHUFFLE, _FIRST_FLIP).permutation(self.size) & 1
            order = order + self.size * (mirrored_first[order] ^ (epoch & 1))
        return order

    def prepare(self, start: int, size: int, *, training: bool = False) -> None:
        """Make ready for :meth:`batch` or, with `training`, :meth:`training_batch` with this `start` and `size`.

        To be called before each batch, also before each replay of a captured one; a loader whose images are all on the
        device has nothing to do.
        """

    def training_batch(self, start: int | Array, size: int, *, seed: int, step: int | Array) -> tuple[Array, Array]:
        """`size` shuffled and augmented images, starting at position `start`, and their labels.

        `start` and `step` are ints or one-element arrays on the device.
        """
        return ops.gather_batch(
            self._images,
            self._labels,
            self._order,
            start=start,
            size=size,
            seed=seed,
            step=step,
            **self._augmentation,
            **self._scaling,
        )

    def batches(self, size: int) -> Iterator[tuple[Array, Array]]:
        """All images in their original order, not augmented, `size` at a time; the last batch may be smaller."""
        for start in range(0, self.size, size):
            yield self.batch(start, min(size, self.size - start))

    def batch(self, start: int | Array, size: int) -> tuple[Array, Array]:
        """`size` images in their original order, not augmented, and their labels.

        `start`, the index of the first, is an int or a one-element array on the device.
        """
        return ops.gather_batch(self._images, self._labels, self._in_order, start=start, size=size, **self._scaling)
