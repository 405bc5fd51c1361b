"""Folders of IDX files: Fashion-MNIST's, which are verified, MNIST's and KMNIST's, and EMNIST's."""

from __future__ import annotations

import logging
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpunet.data.config import DataConfig
from gpunet.data.dataset import FASHION_MNIST_CLASSES
from gpunet.data.download import fetch_files
from gpunet.data.files import FILES, locate, mismatch
from gpunet.data.idx import as_array, read_content
from gpunet.data.parts import Found, Loaded, Part, assemble
from gpunet.errors import DataError

logger = logging.getLogger("gpunet")

_ALNUM = string.digits + string.ascii_uppercase
_EMNIST = {
    # Cohen et al., "EMNIST: an extension of MNIST to handwritten letters", arXiv:1702.05373, 2017, tables I and II
    "letters": dict(enumerate(string.ascii_uppercase, start=1)),
    "balanced": dict(enumerate(_ALNUM + "abdefghnqrt")),
    "bymerge": dict(enumerate(_ALNUM + "abdefghnqrt")),
    "byclass": dict(enumerate(_ALNUM + string.ascii_lowercase)),
    "digits": dict(enumerate(string.digits)),
    "mnist": dict(enumerate(string.digits)),
}


def load_fashion_mnist(config: DataConfig) -> Loaded:
    """Fashion-MNIST, found on this machine or downloaded, verified."""
    files = fetch_files()
    contents = {name: (files.folder / name, files.contents[name]) for name in FILES}
    return _verified(contents, config)


def is_idx_folder(folder: Path) -> bool:
    """Whether `folder` has one of MNIST's files, or EMNIST's."""
    return any(locate(folder, name) is not None for name in FILES) or bool(_emnist_splits(folder))


def load_idx_folder(folder: Path, config: DataConfig) -> Loaded:
    """The data set in a folder for which :func:`is_idx_folder` is true.

    Raises:
        DataError: a file is missing or damaged, or there are several of EMNIST's splits.
    """
    splits = _emnist_splits(folder)
    if splits and not any(locate(folder, name) for name in FILES):
        return _load_emnist(folder, splits, config)
    contents = _contents(folder, list(FILES))
    # If the labels are Fashion-MNIST's, the images must be, too: verify the files and use the known class names.
    path, content = contents["train-labels-idx1-ubyte"]
    if mismatch(content, path, "train-labels-idx1-ubyte") is not None:
        return assemble(_found(contents), config)
    _check_fashion_mnist(folder, contents)
    return _verified(contents, config)


def _check_fashion_mnist(folder: Path, contents: dict[str, tuple[Path, bytearray]]) -> None:
    found = [mismatch(content, path, name) for name, (path, content) in contents.items()]
    if problems := [problem for problem in found if problem is not None]:
        raise DataError("\n  ".join([f"Fashion-MNIST in {folder} cannot be used:", *problems]))


def _verified(contents: dict[str, tuple[Path, bytearray]], config: DataConfig) -> Loaded:
    loaded = assemble(_found(contents, FASHION_MNIST_CLASSES, eight_bits=True), config)
    return Loaded(loaded.train, loaded.test, fashion_mnist=True)


def _contents(folder: Path, names: list[str]) -> dict[str, tuple[Path, bytearray]]:
    return {name: (path, read_content(path)) for name, path in _paths(folder, names).items()}


def _paths(folder: Path, names: list[str]) -> dict[str, Path]:
    paths = {name: locate(folder, name) for name in names}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise DataError(f"{folder} is not an IDX folder: {', '.join(missing)} are missing (also as .gz)")
    return {name: path for name, path in paths.items() if path is not None}


def _found(
    contents: dict[str, tuple[Path, bytearray]],
    class_names: tuple[str, ...] | None = None,
    *,
    eight_bits: bool = False,
) -> Found:
    """The data set in the contents of training images and labels, test images and labels, each with its path."""
    arrays = [as_array(content, path) for path, content in contents.values()]
    paths = [str(path) for path, _ in contents.values()]
    for i in (0, 2):
        if arrays[i].ndim not in (3, 4):
            raise DataError(f"{paths[i]}: expected images (n, H, W) or (n, H, W, C), got shape {arrays[i].shape}")
    train, test = (Part(arrays[i], arrays[i + 1], paths[i], paths[i + 1]) for i in (0, 2))
    return Found(train, test, class_names=class_names, eight_bits=eight_bits)


def _emnist_splits(folder: Path) -> list[str]:
    names = [path.name for path in folder.glob("emnist-*-images*idx3-ubyte*")]
    return sorted({name.split("-")[1] for name in names})


class IdxFiles(NamedTuple):
    """The files of a folder for which :func:`is_idx_folder` is true."""

    parts: dict[str, tuple[Path, Path]]
    """Images and labels of ``train`` and ``test``."""
    fashion_mnist: bool
    """Whether they are Fashion-MNIST's own, which have been verified."""
    emnist: dict[int, str] | None
    """If they are EMNIST's, whose pictures are stored transposed: the names of its labels."""


def idx_files(folder: Path) -> IdxFiles:
    """The files in `folder`, without the images being read unless they are to be verified.

    Raises:
        DataError: as :func:`load_idx_folder`.
    """
    splits = _emnist_splits(folder)
    emnist = bool(splits) and not any(locate(folder, name) for name in FILES)
    names = _emnist_names(folder, splits) if emnist else list(FILES)
    paths = _paths(folder, names)
    labels = "train-labels-idx1-ubyte"
    fashion = not emnist and mismatch(read_content(paths[labels]), paths[labels], labels) is None
    if fashion:
        _check_fashion_mnist(folder, _contents(folder, names))
    files = [paths[name] for name in names]
    parts = {"train": (files[0], files[1]), "test": (files[2], files[3])}
    return IdxFiles(parts, fashion, _EMNIST.get(splits[0], {}) if emnist else None)


def emnist_labels(labels: np.ndarray, known: dict[int, str]) -> np.ndarray:
    """EMNIST's labels by name, as far as all are `known`; those of its letters begin at 1."""
    if labels.ndim == 1 and len(labels) and set(np.unique(labels).tolist()) <= set(known):
        return np.array([known[label] for label in labels.tolist()])
    return labels


def _emnist_names(folder: Path, splits: list[str]) -> list[str]:
    if len(splits) > 1:
        raise DataError(
            f"{folder} has several of EMNIST's splits: {', '.join(splits)}; move the files of one into a folder"
        )
    return [
        f"emnist-{splits[0]}-{part}-{kind}"
        for part in ("train", "test")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]


def _load_emnist(folder: Path, splits: list[str], config: DataConfig) -> Loaded:
    """EMNIST's pictures are stored transposed, and the labels of its letters begin at 1."""
    found = _found(_contents(folder, _emnist_names(folder, splits)))
    known = _EMNIST.get(splits[0], {})
    logger.info("%s: EMNIST's pictures, which are stored transposed, are turned upright", folder)

    def upright(part: Part) -> Part:
        labels = emnist_labels(part.labels, known)
        return Part(part.values.swapaxes(1, 2), labels, part.source, part.labels_source)

    assert found.test is not None
    return assemble(Found(upright(found.train), upright(found.test)), config)
