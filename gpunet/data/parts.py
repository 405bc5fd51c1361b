"""From what was read to data sets: the shape of images, classes, a test part, and the dtype and range of values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpunet.data.classes import encode, targets_of
from gpunet.data.config import DataConfig
from gpunet.data.dataset import EIGHT_BITS, Dataset
from gpunet.data.pixels import stored
from gpunet.data.split import hold_out
from gpunet.errors import DataError
from gpunet.tasks import CLASSIFICATION

logger = logging.getLogger("gpunet")

TEST_SEED = 0
"""Of the test part that is split off: the same examples whatever the seeds of a run are."""

_CHANNELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Part:
    """Examples and labels as they were read, and where they come from, for messages."""

    values: np.ndarray
    labels: np.ndarray
    source: str
    labels_source: str


@dataclass(frozen=True)
class Found:
    """What a reader found: the parts that are there, and what it knows of them."""

    train: Part
    test: Part | None = None
    validation: Part | None = None
    class_names: tuple[str, ...] | None = None
    features: tuple[str, ...] = ()
    """Names of a table's columns."""
    targets: tuple[str, ...] = ()
    """Names of a table's columns of labels."""
    eight_bits: bool = False
    """Whether the values are known to range from 0 to 255, whatever is among them."""


@dataclass(frozen=True)
class Loaded:
    """A data set that is ready for use."""

    train: Dataset
    test: Dataset
    validation: int = 0
    """How many of `train`, the last ones, are the source's own validation part."""
    test_indices: np.ndarray | None = None
    """If the test part was split off: its indices in what was read, int64, ascending."""
    fashion_mnist: bool = False
    """Whether these are Fashion-MNIST's own files."""


def assemble(found: Found, config: DataConfig) -> Loaded:
    """Data sets of the parts in `found`.

    Without a test part, ``test_fraction`` of the training part is split off, stratified by class. A validation part
    becomes the end of the training set.

    Raises:
        DataError: shapes, numbers of images and labels, classes or values are not usable, or do not fit together.
        ConfigError: ``image_shape`` does not fit, or ``test_fraction`` leaves a part empty.
    """
    given = [part for part in (found.train, found.validation, found.test) if part is not None]
    shaped = [in_nhwc(part, config, found.features) for part in given]
    for part, values in zip(given, shaped, strict=True):
        if values.size == 0:
            raise DataError(f"{part.source} holds no pixels: shape {part.values.shape}")
    read, labels_sources = [part.labels for part in given], [part.labels_source for part in given]
    if config.task == CLASSIFICATION:
        labels, class_names = encode(read, labels_sources, found.class_names)
    else:
        labels, class_names = targets_of(read, labels_sources, config.task, found.class_names or found.targets)
    for part, values, indices in zip(given, shaped, labels, strict=True):
        if len(values) != len(indices):
            raise DataError(f"{part.source} holds {len(values)} images, but {part.labels_source} {len(indices)} labels")
        if values.shape[1:] != shaped[0].shape[1:]:
            raise DataError(
                f"images differ in shape: {shaped[0].shape[1:]} in {given[0].source}, {values.shape[1:]} in "
                f"{part.source}"
            )
    sources = [part.source for part in given]
    held_out = None
    if found.test is None:
        held_out = hold_out(labels[0], len(class_names), config.test_fraction, TEST_SEED, "test_fraction")
        how = "stratified by class" if config.task == CLASSIFICATION else "at random"
        logger.info("%s: a test part of %d images was split off, %s", sources[0], len(held_out), how)
        for arrays in (shaped, labels):
            whole = arrays[0]
            arrays[0], test = np.delete(whole, held_out, axis=0), whole[held_out]
            arrays.append(test)
        sources.append(f"{sources[0]}, the test part,")
    images, value_range = _stored(shaped, sources, found, config)
    features = found.features if is_table(found.train.values, config) else ()
    sets = [Dataset(x, y, class_names, value_range, config.task, features) for x, y in zip(images, labels, strict=True)]
    train = sets[0]
    if found.validation is not None:
        arrays = [np.concatenate([getattr(part, name) for part in sets[:2]]) for name in ("images", "labels")]
        train = replace(train, images=arrays[0], labels=arrays[1])
    return Loaded(train, sets[-1], len(train) - len(sets[0]), held_out)


def in_nhwc(part: Part, config: DataConfig, features: tuple[str, ...] = ()) -> np.ndarray:
    """The values of `part` as (n, H, W, C); those of a table, whose columns are `features`, as (n, 1, 1, F).

    Raises:
        DataError: they have another rank, or ``image_shape`` does not fit.
    """
    values = part.values
    if config.image_shape and values.ndim == 2:
        shape = (*config.image_shape, 1)[:3]
        if int(np.prod(shape)) != values.shape[1]:
            raise DataError(
                f"{part.source}: {values.shape[1]} values for each image do not make up image_shape {shape}: "
                f"expected {int(np.prod(shape))}"
            )
        return values.reshape(len(values), *shape)
    if values.ndim == 2:
        return as_features(values, part.source, features)
    if values.ndim == 3:
        return values[..., None]
    if values.ndim != 4:
        raise DataError(
            f"{part.source}: expected images (n, H, W) or (n, H, W, C), or rows (n, features), got shape {values.shape}"
        )
    if values.shape[1] in (1, 3) and values.shape[3] not in _CHANNELS and values.shape[2] not in _CHANNELS:
        logger.info("%s: taken as (n, C, H, W), shape %s, and stored as (n, H, W, C)", part.source, values.shape)
        return values.transpose(0, 2, 3, 1)
    return values


def is_table(values: np.ndarray, config: DataConfig) -> bool:
    """Whether `values`, as they were read, are rows of features rather than images."""
    return values.ndim == 2 and not config.image_shape


def _stored(
    shaped: Sequence[np.ndarray], sources: Sequence[str], found: Found, config: DataConfig
) -> tuple[list[np.ndarray], tuple[float, float]]:
    if is_table(found.train.values, config):
        return list(shaped), EIGHT_BITS
    value_range: tuple[float, float] | None = EIGHT_BITS if found.eight_bits else None
    if config.value_range:
        value_range = config.value_range[0], config.value_range[1]
    images, value_range = stored(shaped, sources, value_range)
    if value_range != EIGHT_BITS:
        logger.info("%s: values from %g to %g are scaled to [0, 1]", sources[0], *value_range)
    return images, value_range


def as_features(values: np.ndarray, source: str, names: tuple[str, ...]) -> np.ndarray:
    """The features (n, F) as float32 (n, 1, 1, F); DataError if one is no number."""
    if values.dtype.kind not in "buif":
        raise DataError(f"{source}: features are {values.dtype}, expected numbers: encode categories as numbers first")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(values, np.float32)
    wrong = ~np.isfinite(features)
    if wrong.any():
        columns = [names[i] if names else f"feature {i}" for i in np.flatnonzero(wrong.any(axis=0))]
        raise DataError(
            f"{source}: {int(wrong.any(axis=1).sum())} of {len(features)} rows have values that are missing, "
            f"infinite or beyond float32, in {', '.join(columns[:10])}{' and others' if len(columns) > 10 else ''}: "
            "remove these rows, or fill in the values"
        )
    return features[:, None, None, :]
