"""Data sets by their path: what kind it is, and who reads it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from gpunet.data.arrays import load_npz
from gpunet.data.cifar import is_cifar_folder, load_cifar
from gpunet.data.config import FASHION_MNIST, DataConfig
from gpunet.data.dataset import Dataset
from gpunet.data.folders import load_folder
from gpunet.data.mnist import is_idx_folder, load_fashion_mnist, load_idx_folder
from gpunet.data.packed import is_packed_folder, load_packed
from gpunet.data.parts import Loaded
from gpunet.data.tables import is_table_folder, is_table_name, load_table
from gpunet.errors import ConfigError, DataError
from gpunet.tasks import CLASSIFICATION

logger = logging.getLogger("gpunet")

_OF_READERS = ("image_size", "channels", "skip_damaged", "image_shape", "label_column")


def load(path: str | os.PathLike[str] = FASHION_MNIST, **options: Any) -> tuple[Dataset, Dataset]:
    """Read a data set; returns its training and test sets.

    Args:
        path: ``fashion-mnist`` (found on this machine or downloaded, always verified), or the path of

            * a folder with a folder of pictures for each class, or with ``train/``, ``val/`` and ``test/`` of such;
            * an NPZ file with x_train, y_train, x_test, y_test (or X, y) and optionally class_names, as
              :func:`gpunet.data.from_arrays` takes them;
            * a table with a column of labels: CSV, TSV or Parquet, or a folder with train.csv and test.csv;
            * a folder of IDX files with the names of MNIST's (KMNIST's, Fashion-MNIST's) or EMNIST's, gzipped or not;
            * a folder of CIFAR's binary files;
            * a folder that ``gpunet data pack`` made, whose images stay on the disk.

        options: those of :class:`gpunet.data.DataConfig` on reading: ``task``, ``image_size``, ``channels``,
            ``skip_damaged``, ``image_shape``, ``label_column``, ``value_range``, ``test_fraction``.

    Without a test part, one is split off, stratified and always the same. A validation part comes last in the training
    set. Every file is read once: what is used is what was verified. Sizes are checked before memory is taken, and none
    beyond what is left.

    Raises:
        DataError: the data are missing, unreadable, damaged, empty, contain NaNs, or have the wrong rank or dtype, or
            inconsistent labels; or a file is larger than the memory that is left.
        ConfigError: an option is invalid, or does not fit the data.
        OutputError: Fashion-MNIST must be downloaded and the cache cannot be written to.

    >>> np.savez("pets.npz", X=np.zeros((10, 8, 8), np.uint8), y=["cat", "dog"] * 5)
    >>> train, test = gn.data.load("pets.npz")
    >>> train.images.shape, test.images.shape, train.class_names
    ((8, 8, 8, 1), (2, 8, 8, 1), ('cat', 'dog'))
    """
    for name in ("image_size", "image_shape"):
        if isinstance(options.get(name), int):
            options[name] = (options[name],)
    loaded = read(path, DataConfig(**options))
    return loaded.train, loaded.test


def read(path: str | os.PathLike[str], config: DataConfig) -> Loaded:
    """As :func:`load`, with the options in `config`, whose own path is not used."""
    if str(path) == FASHION_MNIST:
        return _read_by(lambda _, config: load_fashion_mnist(config), Path(path), config)
    source = Path(path).expanduser()
    if source.is_dir():
        if is_packed_folder(source):
            return _read_by(load_packed, source, config)
        if is_idx_folder(source):
            return _read_by(load_idx_folder, source, config)
        if is_cifar_folder(source):
            return _read_by(load_cifar, source, config)
        if is_table_folder(source):
            return _read_by(load_table, source, config, "label_column", "image_shape")
        return _read_by(load_folder, source, config, "image_size", "channels", "skip_damaged")
    if source.is_file():
        if is_table_name(source):
            return _read_by(load_table, source, config, "label_column", "image_shape")
        return _read_by(load_npz, source, config, "image_shape")
    raise DataError(
        f"{source.absolute()} does not exist: expected {FASHION_MNIST}, or the path of a folder of pictures, an NPZ "
        "file, a table, or an IDX folder"
    )


def _read_by(reader: Callable[[Path, DataConfig], Loaded], source: Path, config: DataConfig, *used: str) -> Loaded:
    """What `reader` reads, with a warning if `config` has options for other readers than those that it has `used`."""
    if config.task != CLASSIFICATION and reader not in (load_table, load_npz):
        raise ConfigError(f"{source} has classes, so its task is {CLASSIFICATION}: {config.task} needs a table or NPZ")
    warn_of_unused(source, config, used)
    return reader(source, config)


def warn_of_unused(source: Path, config: DataConfig, used: Collection[str]) -> None:
    """Warn if `config` has options for other readers than that of `source`, which has `used` some."""
    others = [name for name in _OF_READERS if name not in used and getattr(config, name)]
    if others:
        logger.warning("%s: %s does not concern data of this kind, and is not used", source, ", ".join(others))
