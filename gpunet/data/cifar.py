"""CIFAR-10 and CIFAR-100 in their binary version (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009; www.cs.toronto.edu/~kriz/cifar.html, "Binary version").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
    classes, labels_per_image = (100, 2) if hundred else (10, 1)
    train = _part([folder / f"{name}.bin" for name in names[:-1]], labels_per_image, classes, folder)
    test = _part([folder / f"{names[-1]}.bin"], labels_per_image, classes, folder)
    names_file = folder / ("fine_label_names.txt" if hundred else "batches.meta.txt")
    return assemble(Found(train, test, class_names=_names(names_file, classes), eight_bits=True), config)


def _part(paths: Sequence[Path], labels: int, classes: int, folder: Path) -> Part:
    records = []
    for path in paths:
        try:
            check_memory(2 * path.stat().st_size, str(path))
            data = np.frombuffer(read_regular(path, limit=_LARGEST), np.uint8)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        if data.size == 0 or data.size % (labels + _PIXELS):
            raise DataError(f"{path} is damaged: {data.size} bytes are no multiple of {labels + _PIXELS}, an image's")
        records.append(data.reshape(-1, labels + _PIXELS))
        if records[-1][:, labels - 1].max() >= classes:
            raise DataError(f"{path} is damaged: it has labels beyond {classes - 1}")
    rows = np.concatenate(records)
    images = np.ascontiguousarray(rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Part(images, rows[:, labels - 1], str(folder), f"{folder}, the labels")


def _names(path: Path, classes: int) -> tuple[str, ...] | None:
    try:
        names = tuple(read_regular(path, limit=_NAMES_FILE_LIMIT).decode().split())
    except (OSError, UnicodeDecodeError):
        return None
    return names if len(names) == len(set(names)) == classes else None
