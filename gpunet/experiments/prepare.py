"""The data of a run: loading, splitting, scaling, and moving it to the device."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data import DataConfig, Dataset, Split, load, split
from gpunet.data.loader import Loader
from gpunet.data.scaling import Scaling, scaling_of
from gpunet.data.split import subset
from gpunet.files import write_bytes_atomic


@dataclass(frozen=True)
class RunData:
    """All of a run's data on the host, and its scaling."""

    split: Split
    test: Dataset
    scaling: Scaling

    def part(self, name: str) -> Dataset:
        """``train``, ``validation`` or ``test``."""
        return {"train": self.split.train, "validation": self.split.validation, "test": self.test}[name]

    def loader(self, name: str, backend: Backend, dtype: str, augmentation: DataConfig | None = None) -> Loader:
        """The part `name` on the device, with `augmentation` for its training batches."""
        return loader_of(self.part(name), self.scaling, backend, dtype, augmentation)

    def save_indices(self, path: Path) -> None:
        """Save the indices of the training and validation images, as an NPZ file of int64 vectors."""
        buffer = io.BytesIO()
        np.savez(buffer, train=self.split.train_indices, validation=self.split.validation_indices)
        write_bytes_atomic(path, buffer.getvalue())


def loader_of(
    dataset: Dataset, scaling: Scaling, backend: Backend, dtype: str, augmentation: DataConfig | None = None
) -> Loader:
    """`dataset` on the device."""
    options: dict[str, Any] = {}
    if augmentation is not None:
        options = {name: getattr(augmentation, name) for name in ("flip", "alternate_flip", "shift", "cutout")}
    return Loader(
        dataset.images,
        dataset.labels,
        backend=backend,
        scale=scaling.scale,
        offset=scaling.offset,
        dtype=dtype,
        **options,
    )


def prepare(config: DataConfig) -> RunData:
    """Load and split the data that `config` describes, and compute its scaling.

    Raises:
        DataError: the data are missing, damaged or not usable.
        ConfigError: they cannot be split as configured, or have too few images for it.
    """
    whole, test = load(config.data)
    parts = split(whole, config.validation_fraction, config.split_seed)
    if config.refit:
        parts = dataclasses.replace(parts, train=whole, train_indices=np.arange(len(whole)))
    if config.train_images:
        parts = subset(parts, config.train_images)
    return RunData(parts, test, scaling_of(parts.train.images, config.standardize))
