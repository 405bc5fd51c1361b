"""Data sets from arrays of any shape and range, with any labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.data import from_arrays, load
from gpunet.data.scaling import scaling_of
from gpunet.errors import ConfigError, DataError
from gpunet.experiments.prepare import DataConfig, prepare

RNG = np.random.default_rng(0)
LABELS = np.arange(20) % 2


def pixels(low: float, high: float, dtype: Any, shape: tuple[int, ...] = (20, 3, 4)) -> np.ndarray:
    """Random values of `dtype` that reach from `low` to `high`, in the first half and in the second."""
    values = RNG.uniform(low, high, shape)
    if np.dtype(dtype).kind in "ui":
        values = np.rint(values)
    values[:, 0, 0], values[:, 0, 1] = low, high
    return values.astype(dtype)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "stored", "value_range"),
    [
        (0, 255, np.uint8, np.uint8, (0, 255)),
        (0, 255, np.int64, np.uint8, (0, 255)),
        (3, 16, np.uint8, np.uint8, (0, 16)),
        (0, 1, np.float64, np.float32, (0, 1)),
        (0, 1, np.int8, np.uint8, (0, 1)),
        (0, 4095, np.uint16, np.float32, (0, 4095)),
        (-7, 40, np.int16, np.float32, (-7, 40)),
        (-2.5, 2.0, np.float32, np.float32, (-2.5, 2.0)),
        (0, 200.5, np.float64, np.float32, (0, 200.5)),
    ],
)
def test_any_range_becomes_0_to_1(
    low: float, high: float, dtype: Any, stored: Any, value_range: tuple[float, float]
) -> None:
    values = pixels(low, high, dtype)
    train, test = from_arrays(values[:12], LABELS[:12], values[12:], LABELS[12:])
    assert train.images.dtype == test.images.dtype == stored and train.value_range == test.value_range == value_range
    expected = (values.astype(np.float64) - value_range[0]) / (value_range[1] - value_range[0])
    scaling = scaling_of(train.images, "none", train.value_range)
    found = np.concatenate([scaling.apply(part.images) for part in (train, test)])[..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    shown = np.concatenate([train.shown(), test.shown()])[..., 0]
    np.testing.assert_allclose(shown / 255 if shown.dtype == np.uint8 else shown, expected, atol=1e-6)


def test_truth_values_are_pixels() -> None:
    train, _ = from_arrays(RNG.random((20, 3, 3)) > 0.5, LABELS)
    assert train.images.dtype == np.uint8 and train.value_range == (0, 1) and train.images.max() == 1


def test_the_training_part_decides_on_the_range() -> None:
    values = pixels(0, 100.5, np.float64)
    values[12:] *= 2
    train, test = from_arrays(values[:12], LABELS[:12], values[12:], LABELS[12:])
    assert train.value_range == test.value_range == (0, 100.5) and test.images.max() == 201
    assert from_arrays(values, LABELS, value_range=(0, 400))[0].value_range == (0, 400)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first(channels: int) -> None:
    values = RNG.integers(0, 256, (20, channels, 8, 9), np.uint8)
    train, _ = from_arrays(values[:10], LABELS[:10], values[10:], LABELS[10:])
    np.testing.assert_array_equal(train.images, values[:10].transpose(0, 2, 3, 1))


def test_rows_with_the_shape_of_an_image() -> None:
    values = RNG.integers(0, 256, (20, 24), np.uint8)
    train, _ = from_arrays(values[:10], LABELS[:10], values[10:], LABELS[10:], image_shape=(2, 4, 3))
    np.testing.assert_array_equal(train.images, values[:10].reshape(10, 2, 4, 3))
    with pytest.raises(
        DataError, match=r"24 values for each image do not make up image_shape \(5, 5, 1\): expected 25"
    ):
        from_arrays(values, LABELS, image_shape=(5, 5))


def test_rows_are_features() -> None:
    values = RNG.normal(size=(20, 4))
    train, test = from_arrays(values[:16], LABELS[:16], values[16:], LABELS[16:])
    assert train.is_table and train.images.dtype == np.float32 and test.images.shape == (4, 1, 1, 4)
    assert train.images[:, 0, 0].tolist() == values[:16].astype(np.float32).tolist()


def test_features_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    values = RNG.normal(size=(200, 4)) * [1, 1e3, 1e-4, 0] + [0, 1e4, 0, 3.3]
    np.savez(tmp_path / "a.npz", X=values, y=np.arange(200) % 3)
    data = prepare(DataConfig(data=str(tmp_path / "a.npz"), standardize="channel"))
    scaled = data.scaling.apply(data.split.train.images)[:, 0, 0].astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0)[:3], 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0)[:3], 1, atol=1e-4)
    assert not scaled[:, 3].any()
    other = data.scaling.apply(data.test.images)[:, 0, 0]
    assert 0.01 < abs(other.mean(axis=0)[:3]).max() < 1  # by the training part's statistics


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 7], ("3", "7")),
        ([-1, 1], ("-1", "1")),
        (np.array([10.0, 9.0]), ("9", "10")),
        (["dog", "cat"], ("cat", "dog")),
        (np.array([b"b", b"a"]), ("a", "b")),
        (np.array(["x", "y"], object), ("x", "y")),
        ([True, False], ("False", "True")),
        (np.array([[2**40], [5]]), ("5", str(2**40))),
    ],
)
def test_any_labels(labels: Any, names: tuple[str, ...]) -> None:
    values = pixels(0, 255, np.uint8)
    given = np.asarray(labels)[LABELS]
    train, test = from_arrays(values, given, values, given)
    assert train.class_names == test.class_names == names
    text = [str(int(value)) if isinstance(value, float) else value for value in given.ravel().tolist()]
    text = [value.decode() if isinstance(value, bytes) else str(value) for value in text]
    assert [names[label] for label in train.labels] == text


def test_one_hot_rows_and_names() -> None:
    values = pixels(0, 255, np.uint8)
    train, _ = from_arrays(values, np.eye(2)[LABELS], values, LABELS, class_names=["b", "a"])
    assert train.labels.tolist() == LABELS.tolist() and train.class_names == ("b", "a")
    named = np.array(["b", "a"])[LABELS]
    assert from_arrays(values, named, values, named, class_names=["b", "a"])[0].labels.tolist() == LABELS.tolist()


def test_a_test_part_is_split_off_by_class() -> None:
    values = np.arange(100, dtype=np.float32)[:, None].repeat(2, axis=1)
    labels = np.array([0] * 80 + [1] * 20)
    train, test = from_arrays(values, labels, test_fraction=0.25)
    assert np.bincount(train.labels).tolist() == [60, 15] and np.bincount(test.labels).tolist() == [20, 5]
    both = np.concatenate([part.images[:, 0, 0, 0] for part in (train, test)])
    assert sorted(both.tolist()) == list(range(100))
    assert [labels[int(value)] for value in test.images[:, 0, 0, 0]] == test.labels.tolist()
    again = from_arrays(values, labels, test_fraction=0.25)[1]
    assert again.images.tolist() == test.images.tolist()
    with pytest.raises(ConfigError, match=r"test_fraction 0\.001 of 100 images is 0"):
        from_arrays(values, labels, test_fraction=0.001)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((20, 2), np.nan), LABELS, "20 of 20 rows have values that are missing, .* in feature 0, feature 1"),
        (np.full((20, 2), 1e39), LABELS, "beyond float32"),
        (np.array([["a"]] * 20), LABELS, "features are <U1, expected numbers"),
        ([[1], [2, 3]], [0, 1], "x must be an array, or a list that makes up one"),
        (3, LABELS, "x must be an array, got int"),
        (np.zeros((20, 2)), np.arange(20) / 3, "label.* no whole numbers"),
        (np.zeros((20_001, 2)), np.arange(20_001), "20001 different labels, expected at most 10000 classes"),
        (np.zeros((20, 2, 2)), LABELS[:19], "x holds 20 images, but y 19 labels"),
        (np.zeros((20, 2)), np.array([None, "a"] * 10, object), "labels must be all strings or all numbers"),
    ],
)
def test_what_is_refused(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays(x, y)


@pytest.mark.parametrize("keys", [("X", "y"), ("images", "labels"), ("data", "target"), ("x_train", "y_train")])
def test_names_of_arrays_in_npz(tmp_path: Path, keys: tuple[str, str]) -> None:
    values = RNG.integers(0, 256, (20, 3, 3), np.uint8)
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (values, LABELS), strict=True)))
    train, test = load(tmp_path / "a.npz")
    expected = from_arrays(values, LABELS)
    assert train.images.tolist() == expected[0].images.tolist() and test.labels.tolist() == expected[1].labels.tolist()


def test_validation_part_of_npz_is_used(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (30, 3, 3), np.uint8)
    parts = {"train": slice(20), "val": slice(20, 26), "test": slice(26, 30)}
    arrays = {f"{part}_images": values[rows] for part, rows in parts.items()}
    labels = {f"{part}_labels": (np.arange(30) % 2)[rows, None] for part, rows in parts.items()}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    data = prepare(DataConfig(data=str(tmp_path / "a.npz")))
    assert data.split.validation.images[..., 0].tolist() == values[20:26].tolist()
    assert data.split.train.images[..., 0].tolist() == values[:20].tolist()
    assert data.split.validation_indices.tolist() == list(range(20, 26)) and data.test_indices is None


def test_indices_of_the_test_part_are_saved(tmp_path: Path) -> None:
    values = np.arange(40, dtype=np.uint8)[:, None, None]
    np.savez(tmp_path / "a.npz", X=values, y=np.arange(40) % 2)
    data = prepare(DataConfig(data=str(tmp_path / "a.npz")))
    data.save_indices(tmp_path / "split.npz")
    saved = np.load(tmp_path / "split.npz")
    rest = np.delete(values.ravel(), saved["test"])
    assert data.test.images.ravel().tolist() == saved["test"].tolist()
    assert data.split.train.images.ravel().tolist() == rest[saved["train"]].tolist()


def test_dark_training_images_make_no_range_of_their_own(tmp_path: Path) -> None:
    dark, bright = np.full((20, 4, 4), 9, np.uint8), np.full((10, 4, 4), 119, np.uint8)
    np.savez(tmp_path / "a.npz", x_train=dark, y_train=np.arange(20) % 2, x_test=bright, y_test=np.arange(10) % 2)
    train, test = load(tmp_path / "a.npz")
    assert train.value_range == test.value_range == (0, 255)
    assert train.images.max() == 9 and test.images.max() == 119


def test_options_that_would_do_nothing_are_refused() -> None:
    """Augmentation, scaling and the validation part are no matter of reading."""
    with pytest.raises(ConfigError, match="flip, validation_fraction does not concern the reading"):
        from_arrays(np.zeros((4, 2)), [0, 1, 0, 1], flip=True, validation_fraction=0.5)
