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
from gpunet.data.shards import Images, PackedImages
from gpunet.data.targets import TargetScaling, as_array, checked_targets, checked_weights, in_dtype
from gpunet.devices import get_backend
from gpunet.errors import ConfigError, DataError
from gpunet.ops import random

WINDOW = 4
"""Blocks whose images are shuffled among each other; see :func:`in_blocks`."""

_FIRST_FLIP = 2**32 - 1  # a step of the shuffle stream that no epoch uses


def in_blocks(order: np.ndarray, blocks: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """A shuffled `order` in which only a few blocks of images are shown at a time, so that they are read from the disk
    together: the blocks are shuffled, and the images of every WINDOW of them, as they then follow, among each other.

    Args:
        order: (n,) the order of all images.
        blocks: (n,) the number of the block of each image.
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
        targets: what is to be predicted of each: (n,) integers of any type, class indices from 0; or numbers, (n, K) or
            floats (n,), for a regression or for labels that each hold (1) or not (0). All may be lists, or arrays of
            another library on the same device or on the host, such as PyTorch's, whose memory images then share;
            targets are copied.
        sample_weight: (n,), at least 0: the weight of each row in the loss; None: all 1.
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
        DataError: there are no images, or not as many labels as images, or they are no arrays of numbers; or a target
            or weight is not finite.
        DeviceError: there is no such device.
        ConfigError: augmentation is requested for data other than uint8 images.

    >>> loader = gn.data.Loader(np.uint8([0, 255, 255]).reshape(3, 1, 1, 1), [5, 6, 7])
    >>> [(x.ravel().tolist(), labels.tolist()) for x, labels in loader.batches(2)]
    [([0.0, 1.0], [5, 6]), ([1.0], [7])]
    >>> loader.shuffle(seed=0, epoch=1)
    >>> x, labels = loader.training_batch(0, 3, seed=0, step=0)
    >>> sorted(labels.tolist())
    [5, 6, 7]
    """

    _ahead: tuple[int, int, np.ndarray] | None = None
    """Seed, epoch and order of :meth:`shuffle_ahead`."""

    def __init__(
        self,
        images: Images,
        targets: np.ndarray,
        *,
        sample_weight: np.ndarray | None = None,
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
        targets = checked_targets(targets)
        if not isinstance(images, PackedImages):
            images = as_array(images, "images")
        if not images.ndim or images.dtype.kind not in "uif":
            raise DataError(f"images must be numbers (n, ...), got {images.dtype} of shape {tuple(images.shape)}")
        if len(images) == 0 or len(images) != len(targets):
            raise DataError(f"expected as many labels as images, at least one; got {len(targets)} and {len(images)}")
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
        self.targets: np.ndarray = targets
        """On the host: class indices int32 (n,), or numbers float64 (n, K), as they were given."""
        self.sample_weight = checked_weights(sample_weight, self.size)
        """On the host: float64 (n,), or None."""
        self._numbers: Array | None = None
        self._weights: Array | None = None
        self._scaling: dict[str, Any] = {
            "scale": None if scale is None else backend.asarray(scale, dtype),
            "offset": None if offset is None else backend.asarray(offset, dtype),
            "dtype": np.dtype(dtype),
        }
        self._augmentation: dict[str, Any] = {"flip": flip, "shift": shift, "cutout": cutout}
        self._store(images)

    def _store(self, images: Any) -> None:
        """Move the images and targets to the device, with the orders in which they are shown."""
        backend, targets, weights, dtype = self.backend, self.targets, self.sample_weight, self._scaling["dtype"]
        # With alternate_flip, the mirrored images are stored after the others: the order decides which one is shown.
        if self.alternate_flip:
            with backend_of(images).active():
                images = np.concatenate([images, _mirror(images)])
        self._images = backend.asarray(images)
        # Numbers are gathered beside the images, whose batches then have labels of no meaning.
        self._labels = backend.asarray(self._twice(np.zeros(self.size, np.int32) if targets.ndim == 2 else targets))
        if targets.ndim == 2:
            self._numbers = backend.asarray(self._twice(in_dtype(targets, dtype)))
        if weights is not None:
            self._weights = backend.asarray(self._twice(in_dtype(weights[:, None], dtype)))
        self._in_order = backend.asarray(np.arange(self.size, dtype=np.int64))
        self._order = backend.copy(self._in_order)

    def _twice(self, values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, values]) if self.alternate_flip else values

    @property
    def outputs(self) -> int | None:
        """K, if the targets are numbers (n, K); None if they are class indices."""
        return None if self._numbers is None else int(self.targets.shape[1])

    @property
    def images(self) -> Array:
        """The images, or features, on the device."""
        return self._images[: self.size]

    @property
    def labels(self) -> Array:
        """The class indices, int32 (n,), on the device.

        Raises:
            ConfigError: the targets are numbers.
        """
        if self._numbers is not None:
            raise ConfigError("this loader's targets are numbers, not class indices: see Loader.targets")
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
        targets = [self._numbers, self.targets] if self._numbers is not None else [self.labels]
        for array in (images, *targets, self._scaling["scale"], self._scaling["offset"], self._weights):
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
        self._images, self._labels = _mirror(other.images), other._labels[: self.size]
        if other._numbers is not None:
            self._numbers = other._numbers[: self.size]
        if other._weights is not None:
            self._weights = other._weights[: self.size]

    def standardized(self, scaling: TargetScaling) -> Loader:
        """A loader of the same images whose batches have the targets that a network learns; :attr:`targets` stay."""
        other = copy.copy(self)
        numbers = in_dtype(scaling.standardized(self.targets), self._scaling["dtype"])
        other._numbers = self.backend.asarray(self._twice(numbers))
        return other

    def serve(self, first: int, last: int, of: int) -> None:
        """Training batches of `of` images are asked for their rows `first` to `last` - 1 alone, those of a rank."""

    def shuffle_ahead(self, seed: int, epoch: int) -> None:
        """Compute the order of an `epoch` that will come, for :meth:`shuffle`, while the device has work to do."""
        self._ahead = seed, epoch, self._shuffled(seed, epoch)

    def shuffle(self, seed: int, epoch: int) -> None:
        """Shuffle the training images for `epoch`: the order depends only on `seed` and `epoch`."""
        self.backend.assign(self._order, self._shuffled(seed, epoch))  # in place: a captured step refers to this array

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        """The order of an epoch, int64 (n,): numbers of images, or of mirror images, which follow all images."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[:2] == (seed, epoch):
            return ahead[2]
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

    def training_batch(
        self, start: int | Array, size: int, *, seed: int, step: int | Array, first_row: int = 0
    ) -> tuple[Array, Array]:
        """`size` shuffled and augmented images, starting at position `start`, and their labels or numbers.

        `start` and `step` are ints or one-element arrays on the device. With `first_row`, these are the rows from that
        one on of the batch that starts there.
        """
        x, labels = ops.gather_batch(
            self._images,
            self._labels,
            self._order,
            start=start,
            size=size,
            seed=seed,
            step=step,
            first_row=first_row,
            **self._augmentation,
            **self._scaling,
        )
        if self._numbers is None:
            return x, labels
        return x, ops.gather_targets(self._numbers, self._order[first_row:], start=start, size=size)

    def training_weights(self, start: int | Array, size: int) -> Array | None:
        """The weights of the rows of a :meth:`training_batch`, (size,); None without ``sample_weight``."""
        if self._weights is None:
            return None
        return ops.gather_targets(self._weights, self._order, start=start, size=size).reshape(-1)

    def weights(self, start: int | Array, size: int) -> Array | None:
        """The weights of the rows of a :meth:`batch`, (size,); None without ``sample_weight``."""
        if self._weights is None:
            return None
        return ops.gather_targets(self._weights, self._in_order, start=start, size=size).reshape(-1)

    def batches(self, size: int) -> Iterator[tuple[Array, Array]]:
        """All images in their original order, not augmented, `size` at a time; the last batch may be smaller."""
        for start in range(0, self.size, size):
            yield self.batch(start, min(size, self.size - start))

    def batch(self, start: int | Array, size: int) -> tuple[Array, Array]:
        """`size` images in their original order, not augmented, and their labels or numbers.

        `start`, the index of the first, is an int or a one-element array on the device.
        """
        x, labels = ops.gather_batch(
            self._images, self._labels, self._in_order, start=start, size=size, **self._scaling
        )
        if self._numbers is None:
            return x, labels
        return x, ops.gather_targets(self._numbers, self._in_order, start=start, size=size)
