"""Sources of arrays: NPZ files, folders of NPY files, IDX files and CIFAR's; images are read in blocks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data import cifar, idx, mnist
from gpunet.data.arrays import EXPECTED, array_keys
from gpunet.data.bounded import Stream
from gpunet.data.classes import checked_names
from gpunet.data.config import DataConfig
from gpunet.data.dataset import FASHION_MNIST_CLASSES
from gpunet.data.npy import npz_names, opened_member, read_header, read_npy, read_npz
from gpunet.data.pack.source import Source, SourcePart, rows_of
from gpunet.data.parts import Part, in_nhwc, is_table
from gpunet.errors import DataError
from gpunet.files import open_regular


@dataclass(frozen=True)
class _Array:
    """An array in a file, which is read from its start."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    opened: Callable[[], AbstractContextManager[Stream]]
    """Opens it where its first value is."""
    source: str

    def rows(self) -> Iterator[np.ndarray]:
        """All rows, some at a time, in the machine's byte order."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        left, step = self.shape[0], rows_of(row)
        with self.opened() as stream:
            while left:
                count = min(step, left)
                data = bytearray()
                while len(data) < count * row:
                    chunk = stream.read(count * row - len(data))
                    if not chunk:
                        raise DataError(f"{self.source} is truncated: {left} of {self.shape[0]} images are missing")
                    data += chunk
                block = np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
                yield block.astype(self.dtype.newbyteorder("="), copy=False)
                left -= count
            if stream.read(1):
                raise DataError(f"{self.source} has trailing bytes after {self.shape[0]} images")


def _part(images: _Array, labels: np.ndarray, config: DataConfig, *, transposed: bool = False) -> SourcePart:
    """Images of any layout that :func:`gpunet.data.from_arrays` takes, as (n, H, W, C); turned if `transposed`."""
    like = np.broadcast_to(np.zeros((), images.dtype.newbyteorder("=")), images.shape)
    if is_table(like, config):
        raise DataError(
            f"{images.source} holds rows {images.shape}, which are no images: if they are pixels, give the height and "
            "width, such as --image-shape 28 28; a table cannot be packed"
        )
    shape = in_nhwc(Part(like, labels, images.source, images.source), config).shape
    if math.prod(shape) == 0:
        raise DataError(f"{images.source} holds no pixels: shape {images.shape}")
    turned = len(images.shape) == 4 and shape != images.shape

    def blocks() -> Iterator[np.ndarray]:
        for block in images.rows():
            block = block.transpose(0, 2, 3, 1) if turned else block.reshape(len(block), *shape[1:])
            yield block.swapaxes(1, 2) if transposed else block

    return SourcePart(labels, blocks, images.source)


def npz_source(path: Path, config: DataConfig) -> Source:
    """The arrays of an NPZ file, by the names that :func:`gpunet.data.load` knows."""
    keys = array_keys(npz_names(path, EXPECTED), str(path))
    labels = read_npz(path, [name for _, name in keys.values()], ("class_names",))
    parts = {part: _part(_npz_array(path, name), labels[key], config) for part, (name, key) in keys.items()}
    return Source(parts, _names(labels.get("class_names"), path))


def _npz_array(path: Path, name: str) -> _Array:
    with opened_member(path, name) as stream:
        shape, dtype = _declared(read_header(stream, f"{path}, {name}"), f"{path}, {name}")

    @contextlib.contextmanager
    def opened() -> Iterator[Stream]:
        with opened_member(path, name) as stream:
            read_header(stream, f"{path}, {name}")
            yield stream

    return _Array(shape, dtype, opened, f"{path}, {name}")


def is_npy_folder(folder: Path) -> bool:
    """Whether `folder` has the arrays of a data set as NPY files."""
    return any((folder / f"{name}.npy").is_file() for name in ("x_train", "X_train", "train_images", "X", "x"))


def npy_source(folder: Path, config: DataConfig) -> Source:
    """The arrays in a folder of NPY files, called as those of an NPZ file."""
    keys = array_keys([path.stem for path in folder.glob("*.npy")], str(folder))
    parts = {}
    for part, (name, key) in keys.items():
        parts[part] = _part(_npy_array(folder / f"{name}.npy"), _read(folder / f"{key}.npy"), config)
    names = folder / "class_names.npy"
    return Source(parts, _names(_read(names) if names.is_file() else None, folder))


def _npy_array(path: Path) -> _Array:
    @contextlib.contextmanager
    def opened() -> Iterator[Stream]:
        with _file(path) as stream:
            read_header(stream, str(path))
            yield stream

    with _file(path) as stream:
        shape, dtype = _declared(read_header(stream, str(path)), str(path))
        expected, size = stream.tell() + math.prod(shape) * dtype.itemsize, stream.seek(0, 2)
    if size != expected:
        raise DataError(f"{path} is damaged: {size} bytes, but its header declares {expected}")
    return _Array(shape, dtype, opened, str(path))


def _declared(header: tuple[tuple[int, ...], bool, np.dtype[Any]], source: str) -> tuple[tuple[int, ...], Any]:
    shape, fortran, dtype = header
    if fortran and len(shape) > 1:
        raise DataError(f"{source} is stored column by column: save it with numpy.ascontiguousarray, to be packed")
    if not shape:
        raise DataError(f"{source} holds a single value, expected images (n, H, W) or (n, H, W, C)")
    return shape, dtype


def _read(path: Path) -> np.ndarray:
    with _file(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        return read_npy(stream, size, str(path))


@contextlib.contextmanager
def _file(path: Path) -> Iterator[Any]:
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _names(names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
    return None if names is None else checked_names(names, f"{path}, class_names")


def idx_source(folder: Path, config: DataConfig) -> Source:
    """A folder of MNIST's, Fashion-MNIST's or EMNIST's files."""
    files = mnist.idx_files(folder)
    parts = {}
    for part, (images, labels_path) in files.parts.items():
        labels = idx.read_idx(labels_path)
        if files.emnist is not None:
            labels = mnist.emnist_labels(labels, files.emnist)
        parts[part] = _part(_idx_array(images), labels, config, transposed=files.emnist is not None)
    names = FASHION_MNIST_CLASSES if files.fashion_mnist else None
    return Source(parts, names, eight_bits=files.fashion_mnist)


def _idx_array(path: Path) -> _Array:
    @contextlib.contextmanager
    def opened() -> Iterator[Stream]:
        with idx.opened_array(path) as (stream, *_):
            yield stream

    with idx.opened_array(path) as (_, shape, dtype):
        pass
    if len(shape) not in (3, 4):
        raise DataError(f"{path}: expected images (n, H, W) or (n, H, W, C), got shape {shape}")
    return _Array(shape, dtype, opened, str(path))


def cifar_source(folder: Path, config: DataConfig) -> Source:
    """CIFAR's binary files."""
    layout = cifar.layout(folder)
    parts = {}
    for part, paths in layout.parts.items():
        labels = np.concatenate([cifar.read_records(path, layout)[1] for path in paths])

        def blocks(paths: tuple[Path, ...] = paths) -> Iterator[np.ndarray]:
            for path in paths:
                yield cifar.read_records(path, layout)[0]

        parts[part] = SourcePart(labels, blocks, str(folder))
    return Source(parts, layout.class_names, eight_bits=True)
