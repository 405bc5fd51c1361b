"""Batches: in order for evaluation, shuffled by (seed, epoch) for training, every image once an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.backend import CPU
from gpunet.data.loader import Loader
from gpunet.data.targets import TargetScaling
from gpunet.errors import ConfigError, DataError


def numbered(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are their own number in every pixel, and labels that repeat it."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 5, 1)).copy()
    return images, np.arange(n)


def test_evaluation_batches_are_in_order_scaled_and_complete() -> None:
    images, labels = numbered(7)
    batches = list(Loader(images, labels, backend=CPU).batches(3))
    assert [len(y) for _, y in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels)
    x = np.concatenate([x for x, _ in batches])
    np.testing.assert_array_equal(x, images.astype(np.float32) * np.float32(1 / 255))
    assert x.dtype == np.float32 and batches[0][1].dtype == np.int32


def test_scale_and_offset() -> None:
    images, labels = numbered(3)
    scale, offset = np.full((1, 1, 1), 2.0, np.float32), np.full((4, 5, 1), -1.0, np.float32)
    scale = np.broadcast_to(scale, offset.shape).copy()
    loader = Loader(images, labels, backend=CPU, scale=scale, offset=offset, dtype="float64")
    ((x, _),) = loader.batches(3)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x[:, 0, 0, 0], [-1, 1, 3])


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    images, labels = numbered(12)
    loader = Loader(images, labels, backend=CPU)

    def epoch(seed: int, number: int) -> list[int]:
        loader.shuffle(seed, number)
        starts = [np.array([start]) for start in (0, 4, 8)]
        return [int(v) for start in starts for v in loader.training_batch(start, 4, seed=seed, step=0)[1]]

    first = epoch(0, 0)
    assert sorted(first) == list(range(12))
    assert epoch(0, 1) != first != epoch(1, 0)
    assert epoch(0, 0) == first

    for shuffled in ((0, 0), (0, 1)):  # the one that was computed ahead, and another one
        loader.shuffle_ahead(0, 0)
        assert (epoch(*shuffled) == first) == (shuffled == (0, 0))


def test_training_batches_are_augmented_and_evaluation_is_not() -> None:
    images = np.zeros((8, 4, 5, 1), np.uint8)
    images[:, :, 0] = 255
    loader = Loader(images, np.zeros(8, int), backend=CPU, flip=True)
    loader.shuffle(0, 0)
    x, _ = loader.training_batch(0, 8, seed=3, step=1)
    sides = {tuple(image[0, :, 0]) for image in x}
    assert sides == {(1, 0, 0, 0, 0), (0, 0, 0, 0, 1)}, "eight images, both ways round"
    again, _ = loader.training_batch(0, 8, seed=3, step=1)
    np.testing.assert_array_equal(x, again)
    ((plain, _),) = loader.batches(8)
    assert (plain[:, :, 0] == 1).all() and (plain[:, :, 1:] == 0).all()


def test_features_pass_as_they_are() -> None:
    features = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    ((x, _),) = Loader(features, np.arange(6), backend=CPU).batches(6)
    np.testing.assert_array_equal(x, features)


def test_bad_input() -> None:
    images, labels = numbered(3)
    with pytest.raises(DataError, match="as many labels as images"):
        Loader(images, labels[:2], backend=CPU)
    with pytest.raises(DataError, match="at least one"):
        Loader(images[:0], labels[:0], backend=CPU)
    with pytest.raises(ConfigError, match="need images, not features"):
        Loader(images.astype(np.float32), labels, backend=CPU, flip=True)


def test_alternating_flips_show_both_forms_in_two_epochs() -> None:
    images, labels = numbered(12)
    images[:, :, 0] = 200  # the left column
    loader = Loader(images, labels, backend=CPU, alternate_flip=True)
    assert len(loader.images) == len(loader.labels) == loader.size == 12

    def mirrored(epoch: int) -> np.ndarray:
        loader.shuffle(5, epoch)
        x, y = loader.training_batch(0, 12, seed=5, step=0)
        assert sorted(y) == list(range(12))
        left, right = (x[:, 0, column, 0] > 0.5 for column in (0, 4))
        assert (left ^ right).all()
        found = np.empty(12, bool)
        found[y] = right
        return found

    first = mirrored(0)
    assert first.sum() == 6, "half of them, whichever"
    np.testing.assert_array_equal(mirrored(1), ~first)
    np.testing.assert_array_equal(mirrored(2), first)
    ((x, _),) = loader.batches(20)
    assert (x[:, 0, 0, 0] > 0.5).all() and len(x) == 12, "evaluation is not augmented"


def test_mirrored_images() -> None:
    images = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3, 1)
    scale = np.arange(1, 7, dtype=np.float32).reshape(2, 3, 1)
    offset = np.zeros_like(scale)
    loader = Loader(images, np.arange(2), backend=CPU, scale=scale, offset=offset, flip=True, shift=1)
    ((x, y),) = loader.mirrored().batches(2)
    np.testing.assert_array_equal(x, images[:, :, ::-1] * scale)  # mirrored first, then each place's own scale
    np.testing.assert_array_equal(y, [0, 1])
    ((x, _),) = loader.batches(2)
    np.testing.assert_array_equal(x, images * scale)


def test_what_cannot_be_mirrored() -> None:
    features, labels = np.zeros((3, 4), np.float32), np.zeros(3, int)
    with pytest.raises(ConfigError, match="only images can be mirrored, not features"):
        Loader(features, labels, backend=CPU).mirrored()
    with pytest.raises(ConfigError, match="alternate_flip, shift and cutout need images"):
        Loader(features, labels, backend=CPU, alternate_flip=True)
    with pytest.raises(ConfigError, match="flip and alternate_flip are mutually exclusive"):
        Loader(*numbered(3), backend=CPU, flip=True, alternate_flip=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64, ">i4"])
def test_labels_of_any_integer_type(dtype: Any) -> None:
    images, _ = numbered(3)
    loader = Loader(images, np.array([2, 0, 1], dtype), backend=CPU)
    assert loader.labels.dtype == np.int32 and loader.labels.tolist() == [2, 0, 1]
    assert Loader(images, [2, 0, 1], backend=CPU).labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, np.nan, np.inf], "2 of 3 targets are NaN or infinite, the first in row 1: remove these rows"),
        (np.zeros((3, 0)), r"targets must have shape \(n,\) or \(n, K\), got float64 of shape \(3, 0\)"),
        (np.zeros((3, 2, 2)), r"got float64 of shape \(3, 2, 2\)"),
        ([True, False, True], "got bool"),
        (["a", "b", "c"], "got <U1"),
        ([0, 2**32, 1], "got values from 0 to 4294967296"),
        ([0, -1, 1], "got values from -1 to 1"),
    ],
)
def test_labels_that_are_no_class_indices(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Loader(numbered(3)[0], labels, backend=CPU)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flip", [False, True])
def test_targets_and_weights_follow_their_images(dtype: str, flip: bool) -> None:
    images, numbers = numbered(12)
    targets = np.stack([numbers / 8, -1.0 * numbers], axis=1)
    loader = Loader(images, targets, sample_weight=numbers / 4, backend=CPU, dtype=dtype, alternate_flip=flip)
    assert loader.outputs == 2 and loader.targets.dtype == np.float64
    for epoch in (0, 1):
        loader.shuffle(3, epoch)
        start = np.array([4])
        x, y = loader.training_batch(start, 8, seed=3, step=0)
        shown = np.rint(255 * x[:, 0, 0, 0])
        weights = loader.training_weights(start, 8)
        assert y.dtype == weights.dtype == dtype
        np.testing.assert_array_equal(y, targets[shown.astype(int)])
        np.testing.assert_array_equal(weights, shown / 4)
    x, y = loader.mirrored().batch(2, 3)
    np.testing.assert_array_equal(y[:, 0], np.arange(2, 5) / 8)
    np.testing.assert_array_equal(loader.weights(2, 3), np.arange(2, 5) / 4)


def test_standardised_targets() -> None:
    targets = np.array([[1e9 - 1, 5.0], [1e9 + 1, 5.0]])
    scaling = TargetScaling.of(targets)
    assert scaling.mean.tolist() == [1e9, 5.0] and scaling.scale.tolist() == [1.0, 1.0], "a constant keeps its scale"
    loader = Loader(np.zeros((2, 3), np.float32), targets, backend=CPU).standardized(scaling)
    ((_, y),) = loader.batches(2)
    np.testing.assert_array_equal(y, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(scaling.original(y), targets)
    np.testing.assert_array_equal(loader.targets, targets)


def test_numbers_of_one_target_and_of_indicators() -> None:
    features = np.zeros((3, 2), np.float32)
    loader = Loader(features, [0.5, 1.0, 2.0], backend=CPU)
    assert loader.outputs == 1 and loader.targets.shape == (3, 1)
    with pytest.raises(ConfigError, match="targets are numbers, not class indices"):
        _ = loader.labels
    assert Loader(features, np.eye(3, dtype=np.int64), backend=CPU).outputs == 3
    assert Loader(features, [0, 1, 1], backend=CPU).outputs is None
    assert loader.digest() != Loader(features, [0.5, 1.0, 2.0 + 1e-12], backend=CPU).digest(), "beyond float32"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"sample_weight must be numbers of shape \(3,\), got float64 of shape \(2,\)"),
        ([1.0, -1.0, 1.0], "sample_weight must be finite numbers of at least 0"),
        ([1.0, np.nan, 1.0], "sample_weight must be finite"),
        ([0, 0, 0], "not all of them 0"),
        (["a", "b", "c"], "sample_weight must be numbers"),
    ],
)
def test_weights_that_are_none(weights: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Loader(np.zeros((3, 2), np.float32), [0, 1, 1], sample_weight=weights, backend=CPU)


def test_lists_are_arrays() -> None:
    loader = Loader([[1.0, 2.0], [3.0, 4.0]], [1, 0], backend=CPU)
    assert loader.labels.tolist() == [1, 0] and loader.images.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 4)), [[0], [1, 2], [1]], "labels must be an array, or a list that makes up one: .*inhomogeneous"),
        ([[1.0], [2.0, 3.0]], [0, 1], "images must be an array, or a list that makes up one: .*inhomogeneous"),
        (None, [0, 1], r"images must be numbers \(n, ...\), got object of shape \(\)"),
        (["a", "b"], [0, 1], "images must be numbers"),
        (np.float32(3), [0], r"got float32 of shape \(\)"),
    ],
)
def test_what_makes_up_no_arrays(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Loader(images, labels, backend=CPU)
