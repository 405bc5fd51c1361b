"""The stratified split."""

from __future__ import annotations

import hashlib
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.data import Dataset, split
from gpunet.data.split import subset
from gpunet.errors import ConfigError
from gpunet.ops.random import SPLIT, PhiloxStream


def dataset_of(labels: list[int] | np.ndarray) -> Dataset:
    """A data set whose images are their own numbers, in two bytes."""
    labels = np.asarray(labels, np.int32)
    images = np.arange(len(labels), dtype="<u2").view(np.uint8).reshape(-1, 1, 2, 1)
    return Dataset(images, labels, tuple(str(label) for label in range(int(labels.max()) + 1)))


def test_fashion_mnists_sizes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.int32), 6000))
    result = split(dataset_of(labels), 0.2, 0)
    assert len(result.train) == 48_000 and len(result.validation) == 12_000
    assert np.bincount(result.validation.labels).tolist() == [1200] * 10
    assert np.bincount(result.train.labels).tolist() == [4800] * 10


def test_members_of_each_class_are_the_first_of_its_permutation() -> None:
    labels = [0, 1, 0, 1, 1, 0, 0, 1, 1, 1]
    result = split(dataset_of(labels), 0.5, 7)  # 2 of 4 and 3 of 6
    zeros, ones = np.array([0, 2, 5, 6]), np.array([1, 3, 4, 7, 8, 9])
    expected = [
        *zeros[PhiloxStream(7, SPLIT, 0).permutation(4)[:2]],
        *ones[PhiloxStream(7, SPLIT, 1).permutation(6)[:3]],
    ]
    assert result.validation_indices.tolist() == sorted(expected)


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ([10, 10], 0.2, [2, 2]),
        ([5, 3, 2], 0.3, [1, 1, 1]),  # ideally 1.5, 0.9, 0.6: the remainders 0.9 and 0.6 are the largest
        ([6, 3, 1], 0.4, [3, 1, 0]),  # ideally 2.4, 1.2, 0.4: equal remainders, the lower class
        ([2, 2, 2], 0.34, [1, 1, 0]),  # ideally 2/3 each
        ([1, 9], 0.5, [0, 5]),  # ideally 0.5, 4.5, but the only image of a class is learnt from ...
        ([1, 2], 0.66, [1, 1]),  # ... unless there is no other to hold out
        ([0, 4], 0.5, [0, 2]),
    ],
)
def test_shares(counts: list[int], fraction: float, expected: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    result = split(dataset_of(labels), fraction, 3)
    assert np.bincount(result.validation.labels, minlength=len(counts)).tolist() == expected


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=80),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200)
def test_any_labels(labels: list[int], fraction: float, seed: int) -> None:
    n, held_out = len(labels), round(fraction * len(labels))
    counts = np.bincount(labels)
    dataset = dataset_of(labels)
    if not 0 < held_out < n or n - held_out < np.count_nonzero(counts > 1):
        with pytest.raises(ConfigError, match="validation_fraction"):
            split(dataset, fraction, seed)
        return
    result = split(dataset, fraction, seed)
    assert len(result.validation) == held_out and len(result.train) == n - held_out
    # a partition, ascending
    for indices in (result.train_indices, result.validation_indices):
        assert indices.dtype == np.int64 and (np.diff(indices) > 0).all()
    assert sorted([*result.train_indices, *result.validation_indices]) == list(range(n))
    # the images go along
    for part, indices in ((result.train, result.train_indices), (result.validation, result.validation_indices)):
        assert part.images.reshape(-1).view("<u2").tolist() == indices.tolist()
        assert part.labels.tolist() == [labels[index] for index in indices]
        assert part.class_names == dataset.class_names
    kept = np.bincount(result.train.labels, minlength=len(counts))
    assert (kept[counts > 1] > 0).all()
    if counts[counts > 0].min() > 5 / min(fraction, 1 - fraction):  # no class is near its limit
        for count, share in zip(counts, counts - kept, strict=True):
            assert abs(Fraction(held_out * int(count), n) - int(share)) < 1


def test_repeatable_and_seeded() -> None:
    labels = np.arange(200) % 4
    first, again, other = (split(dataset_of(labels), 0.25, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.validation_indices, again.validation_indices)
    assert first.digest() == again.digest() != other.digest()
    assert (first.validation_indices != other.validation_indices).any()


def test_depends_on_the_labels_alone() -> None:
    dataset = dataset_of(np.arange(40) % 4)
    noise = Dataset(np.zeros((40, 3, 3, 1), np.uint8), dataset.labels, dataset.class_names)
    assert split(dataset, 0.25, 1).digest() == split(noise, 0.25, 1).digest()


def test_digest_is_of_the_indices() -> None:
    result = split(dataset_of([0, 0, 1, 1]), 0.5, 0)
    numbers = [*result.train_indices.tolist(), *result.validation_indices.tolist()]
    assert result.digest() == hashlib.sha256(struct.pack("<4q", *numbers)).hexdigest()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ConfigError, match="validation_fraction must be greater than 0 and less than 1, got"):
        split(dataset_of([0, 1, 0, 1]), fraction, 0)


def test_fraction_that_leaves_a_part_empty() -> None:
    with pytest.raises(ConfigError, match=r"validation_fraction 0.01 of 4 images is 0: both parts need at least one"):
        split(dataset_of([0, 1, 0, 1]), 0.01, 0)
    with pytest.raises(ConfigError, match=r"validation_fraction 0.99 of 4 images is 4"):
        split(dataset_of([0, 1, 0, 1]), 0.99, 0)


def test_no_class_is_lost() -> None:
    with pytest.raises(ConfigError, match=r"holding out 9 of 10 images would leave a class without training images"):
        split(dataset_of([0] * 2 + [1] * 8), 0.9, 0)


def test_subset_has_of_each_class_its_share() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4, dtype=np.int32), (400, 200, 200, 200)))
    whole = dataset_of(labels)
    parts = split(whole, 0.2, 3)
    found = subset(parts, 80)
    assert np.bincount(found.train.labels).tolist() == [32, 16, 16, 16]
    assert set(found.train_indices) <= set(parts.train_indices)
    np.testing.assert_array_equal(found.train.images, whole.images[found.train_indices])
    np.testing.assert_array_equal(found.train.labels, whole.labels[found.train_indices])
    np.testing.assert_array_equal(found.validation_indices, parts.validation_indices)
    np.testing.assert_array_equal(subset(parts, 80).train_indices, found.train_indices)
    assert subset(parts, 800) is parts


@pytest.mark.parametrize("images", [3, 801])
def test_subset_out_of_range(images: int) -> None:
    parts = split(dataset_of(np.arange(1000) % 4), 0.2, 0)
    with pytest.raises(ConfigError, match=f"train_images must lie between .* 4, and .* 800; got {images}"):
        subset(parts, images)
