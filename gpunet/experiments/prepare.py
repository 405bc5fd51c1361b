"""The data of a run: loading, splitting, scaling, and moving it to the device."""

from __future__ import annotations

import dataclasses
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data import DataConfig, Dataset, Split, split
from gpunet.data.loader import Loader
from gpunet.data.scaling import Scaling, scaling_of, scaling_of_table
from gpunet.data.shards import PackedImages
from gpunet.data.sources import read
from gpunet.data.split import subset
from gpunet.data.streaming import StreamingLoader
from gpunet.errors import ConfigError
from gpunet.files import write_bytes_atomic

logger = logging.getLogger("gpunet")

SHARE_IN_MEMORY = 4
"""Packed images are held in memory if they take at most this fraction of what is left of it."""

AUGMENTATION = ("flip", "alternate_flip", "shift", "cutout")


@dataclass(frozen=True)
class RunData:
    """All of a run's data on the host, and its scaling."""

    split: Split
    test: Dataset
    scaling: Scaling
    config: DataConfig
    """How they were read and scaled: other data are to be read the same way."""
    test_indices: np.ndarray | None = None
    """If the test part was split off: its indices in what was read."""
    fashion_mnist: bool = False
    """Whether these are Fashion-MNIST's own files."""

    def part(self, name: str) -> Dataset:
        """``train``, ``validation`` or ``test``."""
        return {"train": self.split.train, "validation": self.split.validation, "test": self.test}[name]

    def loader(self, name: str, backend: Backend, dtype: str, augmentation: DataConfig | None = None) -> Loader:
        """The part `name` on the device, with `augmentation` for its training batches."""
        return loader_of(self.part(name), self.scaling, backend, dtype, augmentation, self.config.stream)

    def save_indices(self, path: Path) -> None:
        """Save the indices of the training and validation images, as an NPZ file of int64 vectors.

        If the test part was split off, ``test`` are its indices in what was read; the others count what then remains.
        """
        buffer = io.BytesIO()
        indices = {"train": self.split.train_indices, "validation": self.split.validation_indices}
        if self.test_indices is not None:
            indices["test"] = self.test_indices
        np.savez(buffer, **indices)  # type: ignore[arg-type]
        write_bytes_atomic(path, buffer.getvalue())


def loader_of(
    dataset: Dataset,
    scaling: Scaling,
    backend: Backend,
    dtype: str,
    augmentation: DataConfig | None = None,
    stream: str = "auto",
) -> Loader:
    """`dataset` on the device. Images that are not uint8, and features, are scaled here, and cannot be augmented.

    augmentation: its options, and the way of shuffling. stream: whether packed images stay on the disk: ``always``,
        ``never`` or, if they take more than a share of 1 / SHARE_IN_MEMORY of the memory that is left, ``auto``.

    Raises:
        ConfigError: `augmentation` asks for it.
        DataError: with `stream` ``never``, the images do not fit into memory.
    """
    options: dict[str, Any] = {}
    if augmentation is not None:
        options = {name: getattr(augmentation, name) for name in AUGMENTATION}
    packed = isinstance(dataset.images, PackedImages)
    if not packed and (stream == "always" or (augmentation is not None and augmentation.shuffle == "blocks")):
        raise ConfigError("--stream always and --shuffle blocks need packed data: make them with gpunet data pack")
    if dataset.images.dtype != np.uint8:
        if asked := [name for name, value in options.items() if value]:
            what = "rows of a table" if dataset.is_table else "of more than 8 bits"
            raise ConfigError(f"the data are {what}, which cannot be augmented: leave out {', '.join(asked)}")
        return Loader(scaling.apply(dataset.in_memory()), dataset.labels, backend=backend, dtype=dtype)
    options |= {"backend": backend, "scale": scaling.scale, "offset": scaling.offset, "dtype": dtype}
    if isinstance(dataset.images, PackedImages):
        if augmentation is not None and augmentation.shuffle == "blocks":
            options["blocks"] = dataset.images.shard_of()
        if _streams(dataset.images, stream, backend):
            return StreamingLoader(dataset.images, dataset.labels, **options)
        options["content"] = dataset.images.digest()
    return Loader(dataset.in_memory(), dataset.labels, **options)


def _streams(images: PackedImages, stream: str, backend: Backend) -> bool:
    if stream != "auto":
        return stream == "always"
    left = backend.memory_left()
    streams = left is None or images.size > left // SHARE_IN_MEMORY
    logger.info(
        "%d packed images, %d MB, are %s: %s a %dth of the %s MB of memory that are left (--stream)",
        len(images),
        images.size >> 20,
        "streamed from the disk" if streams else "held in memory",
        "more than" if streams else "at most",
        SHARE_IN_MEMORY,
        "unknown number of" if left is None else left >> 20,
    )
    return streams


def prepare(config: DataConfig) -> RunData:
    """Load and split the data that `config` describes, and compute its scaling.

    If the data have a validation part of their own, that is held out, whatever ``validation_fraction`` is.

    Raises:
        DataError: the data are missing, damaged or not usable.
        ConfigError: they cannot be split as configured, or have too few images for it.

    >>> from gpunet.experiments.prepare import prepare
    >>> np.savez("pets.npz", X=np.zeros((10, 8, 8), np.uint8), y=["cat", "dog"] * 5)
    >>> data = prepare(gn.data.DataConfig(data="pets.npz", validation_fraction=0.25))
    >>> [len(data.part(name)) for name in ("train", "validation", "test")]
    [6, 2, 2]
    """
    loaded = read(config.data, config)
    whole, own = loaded.train, loaded.validation
    if own:
        first = len(whole) - own
        indices = np.arange(first), np.arange(first, len(whole))
        parts = Split(whole.take(indices[0]), whole.take(indices[1]), *indices)
    else:
        parts = split(whole, config.validation_fraction, config.split_seed)
    if config.refit:
        parts = dataclasses.replace(parts, train=whole, train_indices=np.arange(len(whole)))
    if config.train_images:
        parts = subset(parts, config.train_images)
    if not whole.is_table and not loaded.fashion_mnist:
        config = dataclasses.replace(config, value_range=whole.value_range)
    return RunData(parts, loaded.test, _scaling(parts.train, config), config, loaded.test_indices, loaded.fashion_mnist)


def rescaled(data: RunData, config: DataConfig) -> RunData:
    """`data` with the scaling that `config` describes, all else being the same."""
    return dataclasses.replace(data, config=config, scaling=_scaling(data.split.train, config))


def _scaling(train: Dataset, config: DataConfig) -> Scaling:
    if train.is_table:
        return scaling_of_table(train.images, config.standardize)
    return scaling_of(train.images, config.standardize, train.value_range)
