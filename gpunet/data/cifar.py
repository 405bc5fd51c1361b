"""CIFAR-10 and CIFAR-100 in their binary version (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009; www.cs.toronto.edu/~kriz/cifar.html, "Binary version").
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpunet.data.bounded import check_memory
from gpunet.data.config import DataConfig
from gpunet.data.parts import Found, Loaded, Part, assemble
from gpunet.errors import DataError
from gpunet.files import read_regular

_PIXELS = 3 * 32 * 32
_LARGEST = 50_000 * (_PIXELS + 2)
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_NAMES_FILE_LIMIT = 2**16


def is_cifar_folder(folder: Path) -> bool:
    """Whether `folder` has CIFAR's files, of the binary version or Python's."""
    return any((folder / f"{name}{suffix}").is_file() for name in (*_TRAIN, "train") for suffix in (".bin", "")) and (
        any((folder / name).is_file() for name in ("test_batch.bin", "test_batch", "test.bin", "test"))
    )


def load_cifar(folder: Path, config: DataConfig) -> Loaded:
    """CIFAR-10 or, by its fine labels, CIFAR-100; with the names of the classes if their file is there.

    Raises:
        DataError: it is Python's version, a file is missing or has another size, or a label is beyond the classes.
    """
    found = layout(folder)
    parts = {}
    for part, paths in found.parts.items():
        records = [read_records(path, found) for path in paths]
        images, labels = (np.concatenate(arrays) for arrays in zip(*records, strict=True))
        parts[part] = Part(images, labels, str(folder), f"{folder}, the labels")
    return assemble(
        Found(parts["train"], parts["test"], class_names=found.class_names, eight_bits=True),
        config,
    )


class Layout(NamedTuple):
    """CIFAR's files in a folder."""

    parts: dict[str, tuple[Path, ...]]
    """Of ``train`` and ``test``."""
    labels: int
    """Bytes of labels before each image, of which the last is used."""
    classes: int
    class_names: tuple[str, ...] | None


def layout(folder: Path) -> Layout:
    """The files of a folder for which :func:`is_cifar_folder` is true; DataError as :func:`load_cifar`."""
    hundred = (folder / "train.bin").is_file()
    names = ["train", "test"] if hundred else [*_TRAIN, "test_batch"]
    missing = [f"{name}.bin" for name in names if not (folder / f"{name}.bin").is_file()]
    if len(missing) == len(names):
        raise DataError(
            f"{folder} holds CIFAR's python version, pickles, which run code when they are read: gpunet reads none; "
            "get the binary version (cifar-10-binary.tar.gz), or save the arrays with numpy.savez"
        )
    if missing:
        raise DataError(f"{folder} is not complete: {', '.join(missing)} are missing")
    files = tuple(folder / f"{name}.bin" for name in names)
    classes, labels = (100, 2) if hundred else (10, 1)
    names_file = folder / ("fine_label_names.txt" if hundred else "batches.meta.txt")
    return Layout({"train": files[:-1], "test": files[-1:]}, labels, classes, _names(names_file, classes))


def read_records(path: Path, found: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The images (n, 32, 32, 3) and labels (n,) of one file; DataError as :func:`load_cifar`."""
    labels = found.labels
    try:
        check_memory(2 * path.stat().st_size, str(path))
        data = np.frombuffer(read_regular(path, limit=_LARGEST), np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if data.size == 0 or data.size % (labels + _PIXELS):
        raise DataError(f"{path} is damaged: {data.size} bytes are no multiple of {labels + _PIXELS}, an image's")
    rows = data.reshape(-1, labels + _PIXELS)
    if rows[:, labels - 1].max() >= found.classes:
        raise DataError(f"{path} is damaged: it has labels beyond {found.classes - 1}")
    images = np.ascontiguousarray(rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, rows[:, labels - 1].copy()


def _names(path: Path, classes: int) -> tuple[str, ...] | None:
    try:
        names = tuple(read_regular(path, limit=_NAMES_FILE_LIMIT).decode().split())
    except (OSError, UnicodeDecodeError):
        return None
    return names if len(names) == len(set(names)) == classes else None
