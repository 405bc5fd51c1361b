"""Writing packed data: shards one by one, the index last, so that what is not finished cannot be loaded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data import cifar, mnist, packed, tables
from gpunet.data.classes import encode
from gpunet.data.config import FASHION_MNIST, DataConfig
from gpunet.data.dataset import EIGHT_BITS
from gpunet.data.download import fetch_files
from gpunet.data.pack import arrays, pictures
from gpunet.data.pack.source import Source, SourcePart
from gpunet.data.packed import INDEX, Index, ShardEntry, images_name, labels_name
from gpunet.data.parts import TEST_SEED
from gpunet.data.pixels import UNIT, Seen, check_bounds, range_of, seen_in, to_uint8
from gpunet.data.sources import warn_of_unused
from gpunet.data.split import hold_out
from gpunet.errors import DataError, OutputError
from gpunet.files import atomic_write, lock_folder, remove_temporaries, write_bytes_atomic, write_text_atomic

logger = logging.getLogger("gpunet")

SHARD_BYTES = 1 << 26
"""Of the images in a shard, unless their number is given."""

_OWN = re.compile(r"(train|validation|test)-\d{5,}(-labels)?\.npy")


def pack(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, images_per_shard: int = 0, **options: Any
) -> Index:
    """Pack the data set `source` into the folder `out`, as shards that training reads from the disk.

    The source is read piece by piece, twice or more, in bounded memory: the labels, and a few MB of images.

    Args:
        source: ``fashion-mnist``, or the path of an NPZ file, a folder of NPY files (x_train.npy, y_train.npy and so
            on, as the arrays in an NPZ file), IDX files, CIFAR's binary files, a folder of pictures, WebDataset's tar
            files, or Parquet files with a column of encoded images (with pyarrow).
        out: a new folder, or one in which packing did not finish.
        images_per_shard: 0: as many as make up SHARD_BYTES.
        options: those of :class:`gpunet.data.DataConfig` on reading: ``image_size``, ``channels``, ``skip_damaged``,
            ``image_shape``, ``label_column``, ``value_range``, ``test_fraction``.

    Without a test part, one is split off, as :func:`gpunet.data.load` does; the index says so.

    Raises:
        DataError: the source cannot be read, or its images have more than 8 bits or differ in shape.
        OutputError: `out` holds something else or cannot be written; what was written is removed.
        ConfigError: an option is invalid.
    """
    config, folder = DataConfig(**options), Path(out)
    found = _open(source, config)
    with lock_folder(folder, f"another process is packing into {folder}: wait for it, or give another folder"):
        _clear(folder)
        try:
            index = _write(found, folder, config, images_per_shard)
            write_text_atomic(folder / INDEX, json.dumps(index.document(), indent=1) + "\n")
        except BaseException:
            _remove_shards(folder)
            raise
    return index


def _open(given: str | os.PathLike[str], config: DataConfig) -> Source:
    """The reader of the data set at `given`."""
    if str(given) == FASHION_MNIST:
        warn_of_unused(Path(FASHION_MNIST), config, ())
        return arrays.idx_source(fetch_files().folder, config)
    source = Path(given).expanduser()
    if not source.exists():
        raise DataError(f"{source.absolute()} does not exist: expected {FASHION_MNIST}, or the path of a data set")
    of_pictures = "image_size", "channels", "skip_damaged"
    if source.is_dir() and packed.is_packed_folder(source):
        raise DataError(f"{source} is packed already")
    if pictures.tar_files(source):
        warn_of_unused(source, config, of_pictures)
        return pictures.tar_source(source, config)
    if pictures.parquet_files(source):
        warn_of_unused(source, config, (*of_pictures, "label_column"))
        return pictures.parquet_source(source, config)
    if tables.is_table_folder(source) if source.is_dir() else tables.is_table_name(source):
        raise DataError(f"{source} is a table, which cannot be packed: expected images")
    if source.is_file():
        warn_of_unused(source, config, ("image_shape",))
        return arrays.npz_source(source, config)
    if arrays.is_npy_folder(source):
        warn_of_unused(source, config, ("image_shape",))
        return arrays.npy_source(source, config)
    if mnist.is_idx_folder(source):
        warn_of_unused(source, config, ())
        return arrays.idx_source(source, config)
    if cifar.is_cifar_folder(source):
        warn_of_unused(source, config, ())
        return arrays.cifar_source(source, config)
    warn_of_unused(source, config, of_pictures)
    return pictures.folder_source(source, config)


def _clear(folder: Path) -> None:
    """Check that `folder` is empty but for what a pack that did not finish has left, which is removed."""
    if (folder / INDEX).exists():
        raise OutputError(f"{folder} has packed data already: remove it, or give another folder")
    names = [path.name for path in folder.iterdir()]
    others = [name for name in names if not name.startswith(".") and not _OWN.fullmatch(name)]
    if others:
        raise OutputError(f"{folder} is not empty: it holds {', '.join(sorted(others)[:5])}; give a new folder")
    _remove_shards(folder)


def _remove_shards(folder: Path) -> None:
    remove_temporaries(folder)
    for path in list(folder.iterdir()):
        if _OWN.fullmatch(path.name):
            path.unlink()


def _write(source: Source, folder: Path, config: DataConfig, images_per_shard: int) -> Index:
    given = [(part, source.parts[part]) for part in packed.PARTS if part in source.parts]
    sources = [found.source for _, found in given]
    labels, class_names = encode([found.labels for _, found in given], sources, source.class_names)
    shape, value_range, unit = _examine(source, [found for _, found in given], config)
    held_out = np.zeros(len(labels[0]), bool)
    if "test" not in source.parts:
        chosen = hold_out(labels[0], len(class_names), config.test_fraction, TEST_SEED, "test_fraction")
        held_out[chosen] = True
        logger.info("%s: a test part of %d images is split off, stratified by class", sources[0], len(chosen))
    per_shard = images_per_shard or max(1, SHARD_BYTES // math.prod(shape))
    entries: dict[str, tuple[ShardEntry, ...]] = dict.fromkeys(packed.PARTS, ())
    for (part, found), numbers in zip(given, labels, strict=True):
        writers = {part: _Writer(folder, part, numbers[~held_out] if part == "train" else numbers, shape, per_shard)}
        if part == "train" and held_out.any():
            writers["test"] = _Writer(folder, "test", numbers[held_out], shape, per_shard)
        done = 0
        with contextlib.ExitStack() as stack:
            for writer in writers.values():
                stack.push(writer.end)
            for block in _checked(found, shape, len(numbers)):
                images = to_uint8(block, found.source, exact=True) if unit else block.astype(np.uint8)
                if part == "train":
                    chosen = held_out[done : done + len(images)]
                    writers["train"].add(images[~chosen])
                    if "test" in writers:
                        writers["test"].add(images[chosen])
                else:
                    writers[part].add(images)
                done += len(images)
        entries |= {name: writer.finish() for name, writer in writers.items()}
    split = {"fraction": config.test_fraction, "seed": TEST_SEED} if held_out.any() else None
    return Index(class_names, shape, value_range, entries, split)


def _checked(part: SourcePart, shape: tuple[int, int, int] | None, count: int) -> Iterator[np.ndarray]:
    """The blocks of a part, whose images must have `shape`, if it is known, and be `count`."""
    done = 0
    for block in part.blocks():
        shape = shape or block.shape[1:]
        if block.shape[1:] != shape:
            raise DataError(f"images differ in shape: {shape} and, in {part.source}, {block.shape[1:]}")
        done += len(block)
        yield block
    if done != count:
        raise DataError(f"{part.source} holds {done} images, but {count} labels")


def _examine(
    source: Source, parts: list[SourcePart], config: DataConfig
) -> tuple[tuple[int, int, int], tuple[float, float], bool]:
    """The shape of the images, the range of their values, and whether they are k/255, to be stored as k."""
    value_range = (config.value_range[0], config.value_range[1]) if config.value_range else None
    if source.eight_bits:
        first = next(parts[0].blocks())
        return first.shape[1:], value_range if value_range and value_range != UNIT else EIGHT_BITS, False
    shape: Any = None
    seen: list[Seen] = []
    for part in parts:
        bounds = Seen(math.inf, -math.inf, True)
        for block in _checked(part, shape, len(part.labels)):
            shape = block.shape[1:]
            low, high, whole = seen_in(block, part.source)
            bounds = Seen(min(low, bounds.low), max(high, bounds.high), whole and bounds.whole)
        seen.append(bounds)
    sources = [part.source for part in parts]
    found, unit = range_of(seen, sources, value_range)
    if unit:
        return shape, EIGHT_BITS, True
    check_bounds(seen, sources, found)
    for bounds, name in zip(seen, sources, strict=True):
        if not bounds.whole or bounds.low < 0 or bounds.high > 255:
            raise DataError(
                f"{name}: values from {bounds.low:g} to {bounds.high:g} cannot be packed: packed images have 8 bits, "
                "so values must be whole numbers from 0 to 255, or multiples of 1/255 from 0 to 1"
            )
    return shape, found.range, False


class _Writer:
    """Writes the shards of a part; images are added in the order of its labels, (n,) int32."""

    def __init__(
        self, folder: Path, part: str, labels: np.ndarray, shape: tuple[int, int, int], per_shard: int
    ) -> None:
        self._folder, self._part, self._labels, self._shape, self._per_shard = folder, part, labels, shape, per_shard
        self._entries: list[ShardEntry] = []
        self._left = 0  # images of the shard that is being written
        self._open = contextlib.ExitStack()

    def add(self, images: np.ndarray) -> None:
        """Write uint8 images (k, H, W, C).

        Raises:
            OutputError: they cannot be written.
        """
        try:
            while len(images):
                if not self._left:
                    self._begin()
                chunk = np.ascontiguousarray(images[: self._left]).data
                self._file.write(chunk)
                self._digest.update(chunk)
                self._left -= len(chunk)
                images = images[len(chunk) :]
                if not self._left:
                    self._end()
        except OSError as error:
            raise OutputError(f"cannot write to {self._folder}: {error.strerror or error}") from error

    def end(self, *error: Any) -> bool | None:
        """Close what is open; with an `error`, as for ``__exit__``, it is removed."""
        return self._open.__exit__(*error)

    def finish(self) -> tuple[ShardEntry, ...]:
        """All shards, once all images are added."""
        return tuple(self._entries)

    def _shard_labels(self) -> np.ndarray:
        start = len(self._entries) * self._per_shard
        return self._labels[start : start + self._per_shard]

    def _begin(self) -> None:
        self._left = len(self._shard_labels())
        path = self._folder / images_name(self._part, len(self._entries))
        temporary = self._open.enter_context(atomic_write(path))
        self._file = self._open.enter_context(temporary.open("wb"))
        header = io.BytesIO()
        description = {"descr": "|u1", "fortran_order": False, "shape": (self._left, *self._shape)}
        np.lib.format.write_array_header_1_0(header, description)
        self._file.write(header.getvalue())
        self._digest = hashlib.sha256(header.getvalue())

    def _end(self) -> None:
        self._open.close()
        content = io.BytesIO()
        labels = self._shard_labels()
        np.save(content, labels.astype("<i4"))
        write_bytes_atomic(self._folder / labels_name(self._part, len(self._entries)), content.getvalue())
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        self._entries.append(ShardEntry(len(labels), self._digest.hexdigest(), digest))
