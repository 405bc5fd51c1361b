"""Data sets from arrays: in memory, and in NPZ files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.classes import checked_names
from gpunet.data.config import DataConfig
from gpunet.data.dataset import Dataset
from gpunet.data.npy import npz_names, read_npz
from gpunet.data.parts import Found, Loaded, Part, assemble
from gpunet.dlpack import on_host
from gpunet.errors import DataError

_KEYS = (
    ("x_train", "y_train", "x_test", "y_test", "x_val", "y_val"),
    ("X_train", "y_train", "X_test", "y_test", "X_val", "y_val"),
    ("train_images", "train_labels", "test_images", "test_labels", "val_images", "val_labels"),
    ("X", "y"),
    ("x", "y"),
    ("images", "labels"),
    ("data", "target"),
)
EXPECTED = "x_train, y_train, x_test, y_test, or X, y (a test part is then split off), and optionally class_names"


def from_arrays(
    x: Any, y: Any, x_test: Any = None, y_test: Any = None, *, class_names: Sequence[str] | None = None, **options: Any
) -> tuple[Dataset, Dataset]:
    """A training and a test set from arrays, also PyTorch's, or what NumPy makes arrays of: lists, data frames.

    Args:
        x: images (n, H, W), (n, H, W, C) or, with 1 or 3 channels, (n, C, H, W), of any integers or floats; or rows
            (n, F): a table's features or, with ``image_shape``, the pixels of images.
        y: (n,) whole numbers or strings, or one-hot rows (n, classes). Without `class_names`, the classes are the
            labels in ascending order, called by what they are; with it, whole numbers are indices into it. With
            ``task="regression"``, numbers (n,) or (n, K); with ``task="multilabel"``, 0 or 1 for each label, (n, K);
            `class_names` are then the names of the targets or labels.
        x_test, y_test: of the same kinds. Without them, ``test_fraction`` of the images is split off, stratified by
            class (for other tasks, at random).
        options: those of :class:`gpunet.data.DataConfig` that concern arrays: ``task``, ``image_shape``,
            ``value_range`` and ``test_fraction``.

    Pixels are stored as uint8 where that is lossless, else as float32; ``value_range`` of the result is what becomes
    [0, 1]; see :func:`gpunet.data.pixels.stored`. Features are stored as float32.

    Raises:
        DataError: the arrays are not as above, hold NaNs, or do not fit together. ConfigError: an option is invalid.

    >>> train, test = gn.data.from_arrays(np.zeros((10, 8, 8), np.uint8), ["cat", "dog"] * 5)
    >>> train.images.shape, test.images.shape, train.class_names
    ((8, 8, 8, 1), (2, 8, 8, 1), ('cat', 'dog'))
    """
    if (x_test is None) != (y_test is None):
        raise DataError("x_test and y_test belong together: give both, or neither")
    train = Part(_array(x, "x"), _array(y, "y"), "x", "y")
    test = None if x_test is None else Part(_array(x_test, "x_test"), _array(y_test, "y_test"), "x_test", "y_test")
    names = None if class_names is None else checked_names(list(class_names), "class_names")
    loaded = assemble(Found(train, test, class_names=names), DataConfig(**options))
    return loaded.train, loaded.test


def load_npz(path: Path, config: DataConfig) -> Loaded:
    """The data set in an NPZ file: training images and labels, a test and a validation part, class names.

    Raises:
        DataError: it is not a readable NPZ file, or its arrays are not as :func:`from_arrays` takes them.
    """
    keys = array_keys(npz_names(path, EXPECTED), str(path))
    arrays = read_npz(path, [key for pair in keys.values() for key in pair], ("class_names",))
    parts = {
        part: Part(arrays[images], arrays[labels], f"{path}, {images}", f"{path}, {labels}")
        for part, (images, labels) in keys.items()
    }
    class_names = arrays.get("class_names")
    named = None if class_names is None else checked_names(class_names, f"{path}, class_names")
    return assemble(Found(parts["train"], parts.get("test"), parts.get("validation"), named), config)


def array_keys(names: Sequence[str], source: str) -> dict[str, tuple[str, str]]:
    """The parts among arrays called `names`: ``train``, ``test``, ``validation`` -> the names of images and labels.

    Raises:
        DataError: there are no training images; `source` says where.
    """
    keys = next((keys for keys in _KEYS if keys[0] in names), None)
    if keys is None:
        raise DataError(f"{source} has no images: it holds {', '.join(names) or 'nothing'}, expected {EXPECTED}")
    pairs = zip(("train", "test", "validation"), keys[::2], keys[1::2], strict=False)
    return {part: (images, labels) for part, images, labels in pairs if images in names or labels in names}


def _array(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(on_host(values))
    except (ValueError, TypeError) as error:
        raise DataError(f"{name} must be an array, or a list that makes up one: {error}") from error
    if array.ndim == 0:
        raise DataError(f"{name} must be an array, got {type(values).__name__}")
    return array
