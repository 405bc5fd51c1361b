"""In-memory image data sets, read from Fashion-MNIST's files, an IDX folder or an NPZ file."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpunet.data.config import FASHION_MNIST
from gpunet.data.download import fetch_files
from gpunet.data.files import FILES, locate, mismatch
from gpunet.data.idx import as_array, read_content
from gpunet.data.npy import read_npz
from gpunet.data.pixels import to_uint8
from gpunet.errors import DataError

logger = logging.getLogger("gpunet")

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

LARGEST_LABEL = 9_999
"""Labels are class indices from 0; a larger one is treated as an error."""

_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images.

    images: uint8 (n, H, W, C), n, H, W, C >= 1. labels: int32 (n,), each an index into class_names.

    Raises:
        DataError: the arrays have other dtypes or shapes, or a label has no class name.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
            raise DataError(
                f"a Dataset takes arrays, got images of type {type(images).__name__} and labels of type "
                f"{type(labels).__name__}: convert them with numpy.asarray(images, numpy.uint8) and "
                "numpy.asarray(labels, numpy.int32)"
            )
        if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int32 or labels.ndim != 1:
            raise DataError(
                "a Dataset takes images uint8 (n, H, W, C) and labels int32 (n,), got "
                f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}"
            )
        if images.size == 0 or len(images) != len(labels):
            raise DataError(
                f"a Dataset needs as many labels as images, at least one; got images {images.shape} and "
                f"{len(labels)} labels"
            )
        classes = len(self.class_names)
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"labels lie between {labels.min()} and {labels.max()}, but there are {classes} class names"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of each image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def take(self, indices: np.ndarray) -> Dataset:
        """The images and labels at `indices`, copied."""
        return Dataset(self.images[indices], self.labels[indices], self.class_names)


def load(path: str | os.PathLike[str] = FASHION_MNIST) -> tuple[Dataset, Dataset]:
    """Read a data set; returns its training and test sets.

    path: ``fashion-mnist`` (found on this machine or downloaded, always verified); a folder of IDX files with MNIST's
        names, gzipped or not, images (n, H, W) or (n, H, W, C); or an NPZ file with the arrays x_train, y_train,
        x_test, y_test (images of the same shapes; uint8, or floats k/255) and optionally class_names.

    Labels are class indices from 0. If there are no class names, the indices are used as names. Every file is read
    once: what is used is what was verified. Sizes are checked before memory is taken, and none beyond what is left.

    Raises:
        DataError: the data are missing, unreadable, damaged, empty, contain NaNs, or have the wrong rank or dtype, or
            inconsistent labels; or a file is larger than the memory that is left.
        OutputError: Fashion-MNIST must be downloaded and the cache cannot be written to.
    """
    if str(path) == FASHION_MNIST:
        files = fetch_files()
        return _from_contents(
            {name: (files.folder / name, files.contents[name]) for name in FILES}, FASHION_MNIST_CLASSES
        )
    source = Path(path).expanduser()
    if source.is_dir():
        return _load_folder(source)
    if source.is_file():
        return _load_npz(source)
    raise DataError(
        f"{source.absolute()} does not exist: expected {FASHION_MNIST}, or the path of an IDX folder or NPZ file"
    )


def _load_folder(folder: Path) -> tuple[Dataset, Dataset]:
    paths = {name: locate(folder, name) for name in FILES}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataError(f"{folder} is not an IDX folder: {', '.join(missing)} are missing (also as .gz)")
    contents = {name: (path, read_content(path)) for name, path in paths.items() if path is not None}
    # If the labels are Fashion-MNIST's, the images must be, too: verify the files and use the known class names.
    found = {name: mismatch(content, path, name) for name, (path, content) in contents.items()}
    if found["train-labels-idx1-ubyte"] is not None:
        return _from_contents(contents, None)
    if problems := [problem for problem in found.values() if problem is not None]:
        raise DataError("\n  ".join([f"Fashion-MNIST in {folder} cannot be used:", *problems]))
    return _from_contents(contents, FASHION_MNIST_CLASSES)


def _from_contents(
    contents: dict[str, tuple[Path, bytearray]], class_names: tuple[str, ...] | None
) -> tuple[Dataset, Dataset]:
    """The data set in the four files' contents, each with its path."""
    arrays = [as_array(content, path) for path, content in contents.values()]
    return _datasets(arrays, [str(path) for path, _ in contents.values()], class_names)


def _load_npz(path: Path) -> tuple[Dataset, Dataset]:
    hint = " (a test set is not split off automatically) and optionally class_names"
    arrays = read_npz(path, _KEYS, ("class_names",), hint=hint)
    parts = [arrays[key] for key in _KEYS]
    return _datasets(parts, [f"{path}, {key}" for key in _KEYS], _class_names(arrays.get("class_names"), path))


def _class_names(names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}, class_names: expected strings (classes,), got {names.dtype} {names.shape}")
    try:
        if names.dtype.kind == "U":  # NumPy stores characters as numbers, which may be none of Unicode's
            codes = np.frombuffer(names.tobytes(), np.uint32).reshape(len(names), names.dtype.itemsize // 4)
            result = tuple(row.astype("<u4").tobytes().decode("utf-32-le").rstrip("\0") for row in codes)
        else:
            result = tuple(name.decode() for name in names.tolist())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, class_names: not Unicode: {error}") from error
    if len(set(result)) < len(result) or not all(result):
        raise DataError(f"{path}, class_names: expected distinct, non-empty names, got {', '.join(result)}")
    return result


def _datasets(
    arrays: list[np.ndarray], sources: list[str], class_names: tuple[str, ...] | None
) -> tuple[Dataset, Dataset]:
    """Check train images, train labels, test images, test labels, and their consistency."""
    train_images, test_images = (_images(arrays[i], sources[i]) for i in (0, 2))
    train_labels, test_labels = (_labels(arrays[i], sources[i]) for i in (1, 3))
    for images, labels, i in ((train_images, train_labels, 0), (test_images, test_labels, 2)):
        if len(images) != len(labels):
            raise DataError(f"{sources[i]} holds {len(images)} images, but {sources[i + 1]} {len(labels)} labels")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"images differ in shape: {train_images.shape[1:]} in {sources[0]}, {test_images.shape[1:]} in {sources[2]}"
        )
    present = np.unique(train_labels)
    unknown = np.setdiff1d(test_labels, present)
    if len(unknown):
        raise DataError(f"{sources[3]} has labels that {sources[1]} lacks: {_some(unknown)}")
    if len(present) < 2:
        raise DataError(f"{sources[1]} holds a single class ({present[0]}), expected two or more")
    classes = int(present[-1]) + 1
    if class_names is None:
        class_names = tuple(str(number) for number in range(classes))
    elif len(class_names) < classes:
        raise DataError(f"{sources[1]} has labels up to {classes - 1}, but there are {len(class_names)} class names")
    absent = np.setdiff1d(np.arange(len(class_names)), present)
    if len(absent):
        logger.warning("%s: no training images of class %s; labels are class indices from 0", sources[1], _some(absent))
    return Dataset(train_images, train_labels, class_names), Dataset(test_images, test_labels, class_names)


def _images(array: np.ndarray, source: str) -> np.ndarray:
    if array.ndim not in (3, 4):
        raise DataError(f"{source}: expected images (n, H, W) or (n, H, W, C), got shape {array.shape}")
    if array.size == 0:
        raise DataError(f"{source} holds no pixels: shape {array.shape}")
    pixels = to_uint8(array, f"{source}: the images", exact=True)
    return pixels if pixels.ndim == 4 else pixels[..., None]


def _labels(array: np.ndarray, source: str) -> np.ndarray:
    if array.ndim != 1:
        raise DataError(f"{source}: expected labels (n,), got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise DataError(f"{source}: labels must be whole numbers (an integer dtype), got {array.dtype}")
    if array.size == 0:
        raise DataError(f"{source} holds no labels")
    if array.min() < 0 or array.max() > LARGEST_LABEL:
        raise DataError(
            f"{source}: labels lie between {array.min()} and {array.max()}, expected class indices from 0 "
            f"to {LARGEST_LABEL}"
        )
    return array.astype(np.int32)


def _some(numbers: np.ndarray) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"
