"""In-memory data sets of labelled images or features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gpunet.data.bounded import check_memory
from gpunet.data.shards import Images, PackedImages
from gpunet.dlpack import own_array
from gpunet.errors import DataError
from gpunet.tasks import CLASSIFICATION, MULTILABEL, REGRESSION

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Fashion-MNIST's class names in the order of its labels (github.com/zalandoresearch/fashion-mnist, "Labels")."""

EIGHT_BITS = (0.0, 255.0)

_LABELS = {
    CLASSIFICATION: ("int32", 1, "(n,)"),
    REGRESSION: ("float64", 2, "(n, K)"),
    MULTILABEL: ("uint8", 2, "(n, K)"),
}
"""By task: dtype, rank and shape of the labels."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, or the rows of a table.

    Args:
        images: uint8 (n, H, W, C), n, H, W, C >= 1; or float32, where uint8 cannot hold the values. A table of F
            features is float32 (n, 1, 1, F): an image of one pixel with a channel for each feature. Images of packed
            data stay on the disk until they are indexed.
        labels: int32 (n,), each an index into class_names. For the task ``regression``, the targets, float64 (n, K);
            for ``multilabel``, uint8 (n, K), 1 where a label holds. class_names are then the names of the targets or
            labels.
        value_range: the values of `images` that are black and white: what :func:`~gpunet.data.scaling.scaling_of` maps
            to 0 and 1. Of no meaning for a table.
        feature_names: of the columns of a table, if they are known.

    Raises:
        DataError: the arrays have other dtypes or shapes, a label has no class name, or a target is not finite.

    >>> dataset = gn.data.Dataset(np.zeros((3, 8, 8, 1), np.uint8), np.int32([0, 1, 1]), ("cat", "dog"))
    >>> len(dataset), dataset.image_shape, dataset.classes
    (3, (8, 8, 1), 2)
    >>> dataset.take(np.array([2, 0])).labels
    array([1, 0], dtype=int32)
    """

    images: Images
    labels: np.ndarray
    class_names: tuple[str, ...]
    value_range: tuple[float, float] = EIGHT_BITS
    task: str = CLASSIFICATION
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("images", "labels"):  # another library's array, such as a PyTorch tensor, is taken as it is
            object.__setattr__(self, name, own_array(getattr(self, name)))
        images, labels = self.images, self.labels
        if not isinstance(images, (np.ndarray, PackedImages)) or not isinstance(labels, np.ndarray):
            raise DataError(
                f"a Dataset takes arrays, got images of type {type(images).__name__} and labels of type "
                f"{type(labels).__name__}: convert them with numpy.asarray(images, numpy.uint8) and "
                "numpy.asarray(labels, numpy.int32)"
            )
        if self.task not in _LABELS:
            raise DataError(f"task must be one of {', '.join(_LABELS)}; got {self.task!r:.80}")
        if self.feature_names and len(self.feature_names) != images.shape[-1]:
            raise DataError(f"there are {images.shape[-1]} features, but {len(self.feature_names)} feature_names")
        dtype, rank, shape = _LABELS[self.task]
        known = images.dtype in (np.uint8, np.float32) and labels.dtype == dtype
        if not known or images.ndim != 4 or labels.ndim != rank:
            raise DataError(
                f"a Dataset takes images uint8 (n, H, W, C) or float32, and labels {dtype} {shape}, got "
                f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}; gpunet.data.from_arrays takes others"
            )
        if images.size == 0 or len(images) != len(labels):
            raise DataError(
                f"a Dataset needs as many labels as images, at least one; got images {images.shape} and "
                f"{len(labels)} labels"
            )
        if self.task != CLASSIFICATION:
            self._check_targets()
            return
        classes = len(self.class_names)
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"labels lie between {labels.min()} and {labels.max()}, but there are {classes} class names"
            )

    def _check_targets(self) -> None:
        if self.labels.shape[1] != len(self.class_names):
            raise DataError(f"there are {self.labels.shape[1]} targets, but {len(self.class_names)} names of them")
        if self.task == MULTILABEL and self.labels.max() > 1:
            raise DataError(f"labels must be 0 or 1, got {self.labels.max()}")
        if not np.isfinite(self.labels).all():
            raise DataError("targets must be finite numbers, got NaN or infinity")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of each image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def is_table(self) -> bool:
        """Whether these are features rather than images."""
        return self.images.dtype != np.uint8 and self.image_shape[:2] == (1, 1)

    @property
    def classes(self) -> int:
        """Number of classes; of targets or labels for other tasks: of the outputs of a model."""
        return len(self.class_names)

    def take(self, indices: np.ndarray) -> Dataset:
        """The images and labels at `indices`, copied; images on the disk stay there."""
        on_disk = isinstance(self.images, PackedImages)
        images = self.images.take(indices) if on_disk else self.images[indices]
        return replace(self, images=images, labels=self.labels[indices])

    def in_range(self, value_range: tuple[float, float]) -> Dataset:
        """The same data set with `value_range`: values as a model sees them that was trained with that range."""
        if self.is_table or value_range == self.value_range:
            return self
        unit = images_in_unit(self.in_memory(), self.value_range)
        images = unit * np.float32(value_range[1] - value_range[0]) + np.float32(value_range[0])
        return replace(self, images=images.astype(np.float32), value_range=value_range)

    def in_memory(self) -> np.ndarray:
        """All images, read if they are on the disk.

        Raises:
            DataError: they do not fit into memory, or cannot be read.
        """
        if isinstance(self.images, PackedImages):
            check_memory(self.images.size, f"a data set of {len(self)} images")
            return self.images[:]
        return self.images

    def shows_the_same(self, other: Dataset) -> bool:
        """Whether two data sets have the same labels and images in the same order."""
        if self is other or not np.array_equal(self.labels, other.labels):
            return self is other
        if isinstance(self.images, PackedImages) and isinstance(other.images, PackedImages):
            return self.images.digest() == other.images.digest()
        return np.array_equal(self.in_memory(), other.in_memory())

    def shown(self, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """The images at `rows` for looking at: uint8 from 0 to 255 as they are, others as float32, 0 black and 1 white.

        Values beyond the range stay beyond it.
        """
        images = self.images[rows]
        if images.dtype == np.uint8 and self.value_range == EIGHT_BITS:
            return images
        return images_in_unit(images, self.value_range)


def images_in_unit(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """`images` as float32, `value_range` mapped to [0, 1]."""
    low, high = value_range
    return ((images - np.float32(low)) / np.float32(high - low)).astype(np.float32)
