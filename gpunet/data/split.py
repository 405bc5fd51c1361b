"""The stratified split of the training images into a training and a validation set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from gpunet.data.dataset import Dataset
from gpunet.errors import ConfigError
from gpunet.ops.random import SPLIT, PhiloxStream
from gpunet.tasks import CLASSIFICATION


@dataclass(frozen=True, eq=False)
class Split:
    """Two disjoint parts of a data set, and the indices of their images in it: int64, ascending.

    >>> dataset = gn.data.Dataset(np.zeros((8, 1, 1, 1), np.uint8), np.int32([0, 1] * 4), ("cat", "dog"))
    >>> parts = gn.data.split(dataset, fraction=0.25, seed=0)
    >>> sorted([*parts.train_indices.tolist(), *parts.validation_indices.tolist()])
    [0, 1, 2, 3, 4, 5, 6, 7]
    """

    train: Dataset
    validation: Dataset
    train_indices: np.ndarray
    validation_indices: np.ndarray

    def digest(self) -> str:
        """SHA-256 of the training, then the validation indices as little-endian int64; it identifies the split."""
        digest = hashlib.sha256()
        for indices in (self.train_indices, self.validation_indices):
            digest.update(indices.astype("<i8").tobytes())
        return digest.hexdigest()


def split(dataset: Dataset, fraction: float, seed: int) -> Split:
    """Hold out round(fraction * n) images for validation, stratified by class and chosen at random by `seed`.

    Numbers, and sets of labels, are not stratified.

    The numbers per class are rounded by the largest remainder method. At least one image of a class of two or more
    remains for training; the only image of a class is held out only as a last resort. The choice depends on the
    labels, `fraction` and `seed` alone.

    Raises:
        ConfigError: `fraction` is not in (0, 1), or leaves either part empty or a class without training images.

    >>> dataset = gn.data.Dataset(np.zeros((8, 1, 1, 1), np.uint8), np.int32([0, 1] * 4), ("cat", "dog"))
    >>> parts = gn.data.split(dataset, fraction=0.25, seed=0)
    >>> len(parts.train), sorted(parts.validation.labels.tolist())  # one of each class
    (6, [0, 1])
    """
    validation_indices = hold_out(dataset.labels, dataset.classes, fraction, seed, "validation_fraction")
    in_train = np.ones(len(dataset), bool)
    in_train[validation_indices] = False
    train_indices = np.flatnonzero(in_train).astype(np.int64)
    return Split(dataset.take(train_indices), dataset.take(validation_indices), train_indices, validation_indices)


def hold_out(labels: np.ndarray, classes: int, fraction: float, seed: int, option: str) -> np.ndarray:
    """The indices that :func:`split` holds out of `labels`: int64, ascending.

    labels: class indices below `classes`, (n,); or numbers (n, K), which are not stratified.

    Raises:
        ConfigError: as :func:`split`; `option` is the name of `fraction` in messages.
    """
    n = len(labels)
    if not 0 < fraction < 1:
        raise ConfigError(f"{option} must be greater than 0 and less than 1, got {fraction!r}")
    held_out = round(fraction * n)
    if labels.ndim == 2:
        labels, classes = np.zeros(n, np.int32), 1
    counts = np.bincount(labels, minlength=classes).tolist()
    if not 0 < held_out < n:
        raise ConfigError(f"{option} {fraction:g} of {n} images is {held_out}: both parts need at least one image")
    chosen = []
    for label, size in enumerate(_shares(counts, held_out, option)):
        members = np.flatnonzero(labels == label)
        chosen.append(members[PhiloxStream(seed, SPLIT, label).permutation(len(members))[:size]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def subset(parts: Split, images: int) -> Split:
    """`parts` with a random stratified subset of `images` training images, and the same validation images.

    The choice depends on the labels and `images` alone: every seed trains on the same images.

    Raises:
        ConfigError: `images` exceeds the number of training images, or is less than the number of classes.
    """
    n = len(parts.train)
    least = parts.train.classes if parts.train.task == CLASSIFICATION else 1
    if not least <= images <= n:
        raise ConfigError(
            f"train_images must lie between the number of classes, {least}, and the number of images "
            f"that are not held out, {n}; got {images}"
        )
    if images == n:
        return parts
    kept = split(parts.train, images / n, seed=0)
    indices = parts.train_indices[kept.validation_indices]
    return Split(kept.validation, parts.validation, indices, parts.validation_indices)


def _shares(counts: list[int], total: int, option: str) -> list[int]:
    """`total` in proportion to `counts` by the largest remainder method, ties to the lower class; see :func:`split`."""
    n = sum(counts)
    limits = [max(count - 1, 0) for count in counts]
    shares = [total * count // n for count in counts]  # within the limits, because total < n

    def grow(limits: list[int]) -> None:
        while sum(shares) < total:
            open_classes = [label for label, limit in enumerate(limits) if shares[label] < limit]
            if not open_classes:
                return
            # Integers, so that equal remainders compare equal: (ideal share - share) * n.
            shares[max(open_classes, key=lambda label: (total * counts[label] - shares[label] * n, -label))] += 1

    grow(limits)
    grow([count if count == 1 else limit for count, limit in zip(counts, limits, strict=True)])
    if sum(shares) < total:
        raise ConfigError(
            f"holding out {total} of {n} images would leave a class without training images: lower {option}"
        )
    return shares
