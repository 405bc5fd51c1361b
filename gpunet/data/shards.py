"""Images in files that are too large for memory: read when they are indexed, row by row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from gpunet.errors import DataError
from gpunet.files import open_regular
from gpunet.ops.file_rows import read_rows

_KEPT_OPEN = 128
"""Files of a data set that stay open; if there are more, each is opened when it is read."""


class Shard(NamedTuple):
    """A file with images one after another."""

    path: Path
    start: int
    """Bytes before the first image."""
    images: int
    sha256: str
    """Of the file, as the index of the data set has it."""


class Shards:
    """The images of several files, numbered through.

    Raises:
        DataError: a file cannot be opened.
    """

    def __init__(self, shards: Sequence[Shard], image_shape: tuple[int, int, int]) -> None:
        self.image_shape = image_shape
        self.shards = tuple(shards)
        self.ends = np.cumsum([shard.images for shard in shards])
        self._files: dict[int, int] = {}
        weakref.finalize(self, _close, self._files)
        if len(self.shards) <= _KEPT_OPEN:
            for number, shard in enumerate(self.shards):
                self._files[number] = _open(shard.path)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, numbers: np.ndarray, out: np.ndarray, *, threads: bool = False) -> None:
        """Read the images `numbers`, int64 (m,), into `out`, uint8 (m, H, W, C); threads may do so at the same time.

        With `threads`, those of the CPU's kernels share the work.

        Raises:
            DataError: one cannot be read; the message names the file.
        """
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self):
            raise DataError(f"images are numbered from 0 to {len(self) - 1}, got {numbers.min()} to {numbers.max()}")
        order = np.argsort(numbers)  # the order in the files
        ends = np.searchsorted(numbers[order], self.ends)
        begins = np.concatenate(([0], ends[:-1]))
        for number in np.flatnonzero(begins < ends).tolist():
            places = order[begins[number] : ends[number]]
            shard = self.shards[number]
            rows = numbers[places] - (self.ends[number] - shard.images)
            with self._opened(number) as descriptor:
                done = read_rows(descriptor, rows, places, out, start=shard.start, threads=threads)
                if done < len(rows):
                    raise self._unreadable(shard, descriptor, int(rows[done]))

    def _unreadable(self, shard: Shard, descriptor: int, row: int) -> DataError:
        size = int(np.prod(self.image_shape))
        try:
            found = len(os.pread(descriptor, size, shard.start + row * size))
        except OSError as error:
            return DataError(f"cannot read {shard.path}, image {row}: {error.strerror or error}")
        return DataError(
            f"{shard.path} is truncated: of image {row}, there are {found} of {size} bytes; pack the data again"
        )

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        if number in self._files:
            yield self._files[number]
            return
        descriptor = _open(self.shards[number].path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class PackedImages:
    """Some of the images in shards, like an array uint8 (n, H, W, C): an index or a slice reads them from the disk.

    Args:
        numbers: those of the images in `shards`, int64 (n,); None: all.
        mirrored: they are read mirrored left-right.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, shards: Shards, numbers: np.ndarray | None = None, *, mirrored: bool = False) -> None:
        self._shards, self._numbers, self._mirrored = shards, numbers, mirrored

    def __len__(self) -> int:
        return len(self._shards if self._numbers is None else self._numbers)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, H, W, C)."""
        return len(self), *self._shards.image_shape

    @property
    def size(self) -> int:
        """Number of pixels, which is that of bytes, too."""
        return int(np.prod(self.shape))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The images at `rows`, a slice or whole numbers (m,), read into a new array.

        Raises:
            DataError: as :meth:`Shards.read`.
        """
        chosen = np.arange(len(self))[rows]
        out = np.empty((len(chosen), *self._shards.image_shape), np.uint8)
        self.read(chosen, out)
        return out

    def read(self, rows: np.ndarray, out: np.ndarray, *, threads: bool = False) -> None:
        """Read the images at `rows`, int64 (m,), into `out`, uint8 (m, H, W, C); see :meth:`Shards.read`.

        Raises:
            DataError: as :meth:`Shards.read`.
        """
        self._shards.read(rows if self._numbers is None else self._numbers[rows], out, threads=threads)
        if self._mirrored:
            out[...] = out[:, :, ::-1].copy()

    def take(self, rows: np.ndarray) -> PackedImages:
        """The images at `rows`, int64 (m,); nothing is read."""
        numbers = rows if self._numbers is None else self._numbers[rows]
        return PackedImages(self._shards, np.ascontiguousarray(numbers, np.int64), mirrored=self._mirrored)

    def mirrored(self) -> PackedImages:
        """The mirror images; nothing is read."""
        return PackedImages(self._shards, self._numbers, mirrored=not self._mirrored)

    def shard_of(self) -> np.ndarray:
        """The number of the shard of each image, int64 (n,)."""
        numbers = np.arange(len(self)) if self._numbers is None else self._numbers
        return np.searchsorted(self._shards.ends, numbers, side="right")

    def digest(self) -> str:
        """SHA-256 of the checksums of the shards and of the images that are chosen: no image is read for it."""
        shards = [[shard.images, shard.sha256] for shard in self._shards.shards]
        facts = {"shape": self._shards.image_shape, "shards": shards, "mirrored": self._mirrored}
        found = hashlib.sha256(json.dumps(facts).encode())
        found.update((np.arange(len(self)) if self._numbers is None else self._numbers).astype("<i8").data)
        return found.hexdigest()


Images: TypeAlias = np.ndarray | PackedImages
"""In memory, or on the disk."""


def _open(path: Path) -> int:
    try:
        with open_regular(path) as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _close(files: dict[int, int]) -> None:
    for descriptor in files.values():
        os.close(descriptor)
    files.clear()
