"""Packed data: images in shards on the disk and an index, for data sets that are larger than memory."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.classes import MOST_CLASSES
from gpunet.data.config import DataConfig
from gpunet.data.dataset import EIGHT_BITS, Dataset
from gpunet.data.npy import read_header, read_npy
from gpunet.data.parts import Loaded
from gpunet.data.pixels import UNIT
from gpunet.data.shards import PackedImages, Shard, Shards
from gpunet.errors import DataError
from gpunet.files import open_regular, read_json

FORMAT, VERSION = "gpunet packed images", 1
INDEX = "index.json"
PARTS = ("train", "validation", "test")
_CHUNK = 1 << 22
_MOST_IMAGES = 2**40
_AGAIN = "pack the data again (gpunet data pack), or get an undamaged copy"


@dataclass(frozen=True)
class ShardEntry:
    """A shard in the index: two files, ``train-00000.npy`` and ``train-00000-labels.npy``."""

    images: int
    sha256: str
    labels_sha256: str


@dataclass(frozen=True)
class Index:
    """What ``index.json`` says."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    value_range: tuple[float, float]
    parts: dict[str, tuple[ShardEntry, ...]]
    """The shards of ``train``, ``validation``, which may be empty, and ``test``."""
    test_split: dict[str, Any] | None
    """If the test part was split off: the fraction and the seed."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "value_range": list(self.value_range),
            "test_split": self.test_split,
            "parts": {part: [vars(entry) for entry in entries] for part, entries in self.parts.items()},
        }


def images_name(part: str, number: int) -> str:
    """The name of a shard's file of images, uint8 (n, H, W, C)."""
    return f"{part}-{number:05}.npy"


def labels_name(part: str, number: int) -> str:
    """The name of a shard's file of labels, int32 (n,)."""
    return f"{part}-{number:05}-labels.npy"


def is_packed_folder(folder: Path) -> bool:
    """Whether `folder` holds packed data, finished or not, rather than folders of pictures."""
    if (folder / images_name("train", 0)).exists():
        return True
    return (folder / INDEX).is_file() and not any(path.is_dir() for path in folder.iterdir())


def read_index(folder: Path) -> Index:
    """The index of the packed data in `folder`.

    Raises:
        DataError: there is none, it is damaged, or it is of another version.
    """
    path = folder / INDEX
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise DataError(
            f"{folder} has shards but no {INDEX}: packing has not finished; run gpunet data pack again"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; {_AGAIN}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DataError(f"{path} is not an index of packed data: expected the format {FORMAT!r}")
    if document.get("version") != VERSION:
        raise DataError(
            f"{path} has version {document.get('version')!r}, but this gpunet reads version {VERSION}: pack the data "
            "again, or use another gpunet"
        )
    try:
        return _index(document)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path} is damaged: {reason}; {_AGAIN}") from error


def _index(document: dict[str, Any]) -> Index:
    names = document["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("class_names are no list of names")
    if len(set(names)) < len(names) or not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(f"class_names must be 2 to {MOST_CLASSES} different names")
    height, width, channels = (_whole(side, "image_shape", 2**16) for side in document["image_shape"])
    low, high = (_number(value, "value_range") for value in document["value_range"])
    if not low < high:
        raise ValueError("value_range must be a lower and a higher number")
    parts = {part: tuple(map(_entry, document["parts"][part])) for part in PARTS}
    if not parts["train"] or not parts["test"]:
        raise ValueError("it has no training images, or no test images")
    split = document["test_split"]
    if split is not None and not isinstance(split, dict):
        raise ValueError("test_split must be an object or null")
    return Index(tuple(names), (height, width, channels), (low, high), parts, split)


def _whole(value: Any, name: str, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= high:
        raise ValueError(f"{name} must be whole numbers from 1 to {high}, got {value!r:.80}")
    return value


def _number(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be numbers, got {value!r:.80}")
    return float(value)


def _entry(entry: Any) -> ShardEntry:
    if not isinstance(entry, dict):
        raise ValueError(f"a shard must be an object, got {entry!r:.80}")
    digests = [entry["sha256"], entry["labels_sha256"]]
    if not all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
        raise ValueError("sha256 must be 64 hexadecimal digits")
    return ShardEntry(_whole(entry["images"], "images", _MOST_IMAGES), digests[0], digests[1])


def load_packed(folder: Path, config: DataConfig) -> Loaded:
    """The packed data in `folder`; labels are read and compared with their checksums, images stay on the disk.

    Raises:
        DataError: the index is missing or damaged, or a file is missing, or has another size than the index says.
    """
    index = read_index(folder)
    train = _dataset(folder, index, ("train", "validation"), config)
    held_out = sum(entry.images for entry in index.parts["validation"])
    return Loaded(train, _dataset(folder, index, ("test",), config), held_out)


def _dataset(folder: Path, index: Index, parts: tuple[str, ...], config: DataConfig) -> Dataset:
    shards, labels = [], []
    for part in parts:
        for number, entry in enumerate(index.parts[part]):
            shards.append(_shard(folder / images_name(part, number), index.image_shape, entry))
            labels.append(_labels(folder / labels_name(part, number), len(index.class_names), entry))
    value_range = index.value_range
    # as for arrays (pixels.stored): whole numbers to 255 are not taken for 0..1
    if config.value_range and not (value_range == EIGHT_BITS and config.value_range == UNIT):
        value_range = config.value_range[0], config.value_range[1]
    images = PackedImages(Shards(shards, index.image_shape))
    return Dataset(images, np.concatenate(labels), index.class_names, value_range)


def _shard(path: Path, image_shape: tuple[int, int, int], entry: ShardEntry) -> Shard:
    """The file of images at `path`, whose header and size are as the index says; its pixels are not looked at."""
    expected = (entry.images, *image_shape)
    try:
        with open_regular(path) as file:
            shape, fortran, dtype = read_header(file, str(path))
            start, size = file.tell(), file.seek(0, 2)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; {_AGAIN}") from error
    if shape != expected or fortran or dtype != np.uint8:
        raise DataError(f"{path} is damaged: it holds {dtype} {shape}, expected uint8 {expected}; {_AGAIN}")
    if size != start + math.prod(expected):
        state = "is truncated" if size < start + math.prod(expected) else "has trailing bytes"
        raise DataError(f"{path} {state}: {size} bytes, expected {start + math.prod(expected)}; {_AGAIN}")
    return Shard(path, start, entry.images, entry.sha256)


def _labels(path: Path, classes: int, entry: ShardEntry) -> np.ndarray:
    _check(path, entry.labels_sha256)
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        labels = read_npy(file, size, str(path))
    if labels.shape != (entry.images,) or labels.dtype != np.int32 or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path} does not fit {INDEX}: expected int32 ({entry.images},) below {classes}, got {labels.dtype} "
            f"{labels.shape}; {_AGAIN}"
        )
    return labels


def verify_packed(folder: Path) -> dict[str, str]:
    """Compare all files of the packed data in `folder` with their checksums; returns these by name.

    Raises:
        DataError: the index is missing or damaged, or a file is missing or damaged; the message names the first one.
    """
    index = read_index(folder)
    for part, entries in index.parts.items():
        for number, entry in enumerate(entries):
            images = folder / images_name(part, number)
            _shard(images, index.image_shape, entry)
            _check(images, entry.sha256)
            _labels(folder / labels_name(part, number), len(index.class_names), entry)
    return dict(files_of(index))


def files_of(index: Index) -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of each file beside the index."""
    for part, entries in index.parts.items():
        for number, entry in enumerate(entries):
            yield images_name(part, number), entry.sha256
            yield labels_name(part, number), entry.labels_sha256


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read in chunks.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    found = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _check(path: Path, digest: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; {_AGAIN}") from error
    if found != digest:
        raise DataError(f"{path} is damaged: its SHA-256 is {found}, expected {digest}; {_AGAIN}")
