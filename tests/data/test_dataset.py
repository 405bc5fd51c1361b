"""Reading data sets: IDX folders and NPZ files, good and bad."""

from __future__ import annotations

import dataclasses
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.data import FASHION_MNIST_CLASSES, Dataset, load
from gpunet.data.idx import write_idx
from gpunet.errors import DataError
from tests.data.conftest import fill

RNG = np.random.default_rng(0)


def arrays(shape: tuple[int, ...] = (5, 7), **changes: Any) -> dict[str, Any]:
    """A data set of three classes as Keras' mnist.npz holds it; a change to None leaves an array out."""
    good = {
        "x_train": RNG.integers(0, 256, (12, *shape), np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": RNG.integers(0, 256, (4, *shape), np.uint8),
        "y_test": np.array([2, 1, 0, 0]),
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def npz(tmp_path: Path, data: dict[str, Any]) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **data)
    return path


def idx_folder(folder: Path, data: dict[str, Any], suffix: str = "") -> Path:
    folder.mkdir()
    for key, name in (
        ("x_train", "train-images-idx3-ubyte"),
        ("y_train", "train-labels-idx1-ubyte"),
        ("x_test", "t10k-images-idx3-ubyte"),
        ("y_test", "t10k-labels-idx1-ubyte"),
    ):
        array = data[key]
        write_idx(folder / f"{name}{suffix}", array.astype(np.uint8) if key[0] == "y" else array)
    return folder


def check(loaded: tuple[Dataset, Dataset], data: dict[str, Any], class_names: tuple[str, ...]) -> None:
    for dataset, part in zip(loaded, ("train", "test"), strict=True):
        images = data[f"x_{part}"]
        expected = images if images.ndim == 4 else images[..., None]
        assert dataset.images.dtype == np.uint8 and dataset.labels.dtype == np.int32
        assert dataset.images.flags.c_contiguous and dataset.images.flags.writeable
        np.testing.assert_array_equal(dataset.images, expected)
        np.testing.assert_array_equal(dataset.labels, data[f"y_{part}"])
        assert dataset.class_names == class_names
        assert dataset.image_shape == expected.shape[1:]
        assert len(dataset) == len(expected) and dataset.classes == len(class_names)


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (6, 5, 1), (4, 4, 3)])
def test_npz_and_idx(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = arrays(shape)
    for path in (npz(tmp_path, data), idx_folder(tmp_path / "a", data), idx_folder(tmp_path / "b", data, ".gz")):
        check(load(path), data, ("0", "1", "2"))
        check(load(str(path)), data, ("0", "1", "2"))


def test_npz_compressed_and_of_floats(tmp_path: Path) -> None:
    data = arrays()
    floats = {key: (value / 255).astype(np.float32) if key[0] == "x" else value for key, value in data.items()}
    np.savez_compressed(tmp_path / "data.npz", **floats)
    check(load(tmp_path / "data.npz"), data, ("0", "1", "2"))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, ">i2"])
def test_label_types(tmp_path: Path, dtype: Any) -> None:
    data = arrays()
    data["y_train"], data["y_test"] = data["y_train"].astype(dtype), data["y_test"].astype(dtype)
    check(load(npz(tmp_path, data)), data, ("0", "1", "2"))


@pytest.mark.parametrize("names", [["cat", "dog", "čáp"], [b"cat", b"dog", "čáp".encode()]])
def test_class_names(tmp_path: Path, names: list[Any]) -> None:
    data = arrays()
    check(load(npz(tmp_path, {**data, "class_names": np.array(names)})), data, ("cat", "dog", "čáp"))


def test_fashion_mnist(tmp_path: Path, contents: dict[str, bytes]) -> None:
    fill(tmp_path / "system", contents, compress=True)
    train, test = load("fashion-mnist")
    assert train.images[..., 0].tolist() == np.arange(24).reshape(4, 2, 3).tolist()
    assert test.images[..., 0].tolist() == np.arange(100, 112).reshape(2, 2, 3).tolist()
    assert train.labels.tolist() == [0, 1, 1, 0] and test.labels.tolist() == [1, 0]
    assert train.class_names == test.class_names == FASHION_MNIST_CLASSES and len(set(FASHION_MNIST_CLASSES)) == 10


def test_fashion_mnists_folder_is_recognised_and_verified(tmp_path: Path, contents: dict[str, bytes]) -> None:
    train, _ = load(fill(tmp_path / "a", contents))
    assert train.class_names == FASHION_MNIST_CLASSES
    images = contents["train-images-idx3-ubyte"]
    contents["train-images-idx3-ubyte"] = images[:-1] + b"x"  # a good IDX file, but not Fashion-MNIST's
    with pytest.raises(DataError, match="train-images-idx3-ubyte is damaged: expected sha256"):
        load(fill(tmp_path / "b", contents))


def test_absent_class_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = arrays(y_train=np.arange(12) % 3 + 1, y_test=np.array([1, 2, 3, 3]))
    names = {"class_names": np.array(["a", "b", "c", "d"])}
    with caplog.at_level(logging.WARNING, "gpunet"):
        train, _ = load(npz(tmp_path, data | names))
    assert train.labels.tolist() == data["y_train"].tolist() and train.classes == 4
    assert any("no training images of class 0" in text for text in caplog.messages)


def test_good_data_are_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(npz(tmp_path, arrays()))
    assert caplog.messages == []


IMAGES = np.zeros((12, 5, 7), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, r"lacks x_test: it holds x_train, y_train, y_test"),
        ({"y_train": None}, r"lacks y_train: it holds x_train, x_test, y_test"),
        ({"x_train": IMAGES[0, 0]}, r"x_train: expected images .* or rows \(n, features\), got shape \(7,\)"),
        ({"x_train": IMAGES[None, None]}, r"got shape \(1, 1, 12, 5, 7\)"),
        ({"x_train": np.zeros((0, 5, 7), np.uint8)}, r"x_train holds no pixels: shape \(0, 5, 7\)"),
        ({"x_train": np.zeros((12, 0, 7), np.uint8)}, r"x_train holds no pixels: shape \(12, 0, 7\)"),
        ({"x_train": IMAGES.astype(complex)}, r"x_train: the images are complex128, expected numbers"),
        ({"x_test": np.full((4, 5, 7), np.nan)}, r"x_test: the images: 140 pixel\(s\) are NaN"),
        ({"x_train": np.full((12, 5, 7), 700)}, "x_train: all values are 700, so there is nothing to learn"),
        (
            {"x_train": IMAGES / 1},
            r"x_test: values lie between .* but those of .*x_train in 0 to 1: give both",
        ),
        ({"x_train": np.array([None] * 12)}, "x_train is not a readable array: Object arrays cannot be loaded"),
        (
            {"x_test": np.zeros((4, 7, 5), np.uint8)},
            r"differ in shape: \(5, 7, 1\) in .*x_train, \(7, 5, 1\) in .*x_test",
        ),
        ({"x_test": np.zeros((4, 5, 7, 3), np.uint8)}, r"differ in shape: \(5, 7, 1\) in .*, \(5, 7, 3\) in"),
        ({"y_train": np.zeros((12, 2), int)}, r"y_train: labels of shape \(12, 2\) must be one-hot rows"),
        ({"y_train": np.zeros((12, 1, 1), int)}, r"expected labels \(n,\), or one-hot rows .* \(12, 1, 1\)"),
        ({"y_train": np.arange(12) / 2}, r"y_train: 6 label\(s\) are no whole numbers, such as 0.5"),
        (
            {"y_train": np.arange(12) * 1j},
            "labels must be whole numbers, strings or one-hot rows, got complex",
        ),
        ({"y_train": np.array(["a", "b"] * 6)}, "labels are strings in one part and numbers in another"),
        ({"y_train": np.array(["a", " "] * 6)}, "y_train: 6 of 12 labels are empty"),
        ({"y_train": np.zeros(0, int)}, "y_train holds no labels"),
        ({"y_train": np.arange(12) + 2**40}, "y_test has labels that .*y_train lacks: 0, 1, 2"),
        ({"y_train": np.arange(11) % 3}, "x_train holds 12 images, but .*y_train 11 labels"),
        ({"y_test": np.array([0, 1])}, "x_test holds 4 images, but .*y_test 2 labels"),
        ({"y_test": np.array([0, 7, 5, 7])}, "y_test has labels that .*y_train lacks: 5, 7$"),
        (
            {"y_train": np.zeros(12, int), "y_test": np.zeros(4, int)},
            r"y_train holds a single class \(0\), expected two",
        ),
        ({"class_names": np.array(["a", "b"])}, "y_train has labels without a class name: 2; there are 2 class names"),
        ({"class_names": np.array(["a", "b", "a"])}, "class_names: expected distinct, non-empty names"),
        ({"class_names": np.array(["a", "", "c"])}, "class_names: expected distinct, non-empty names"),
        ({"class_names": np.array([b"a", b"\xff", b"c"])}, "class_names: not Unicode: 'utf-8'"),
        ({"class_names": np.array([97, 0x110000, 98], np.uint32).view("<U1")}, "class_names: not Unicode: 'utf-32-le'"),
        ({"class_names": np.array(["a", "\ud800", "c"])}, "class_names: not Unicode: 'utf-32-le'"),
        ({"class_names": np.zeros(3, "U0")}, "class_names: expected distinct, non-empty names"),
        ({"class_names": np.arange(3)}, r"class_names: expected strings \(classes,\), got int64 \(3,\)"),
    ],
)
def test_bad_npz(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = npz(tmp_path, arrays(**changes))
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert caught.value.exit_code == 3 and str(path) in str(caught.value)


def test_many_unknown_labels_are_cut_short(tmp_path: Path) -> None:
    data = arrays(x_test=np.zeros((20, 5, 7), np.uint8), y_test=np.arange(20))
    with pytest.raises(DataError, match=r"lacks: 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 7 more$"):
        load(npz(tmp_path, data))


class TestFilesThatAreNoNpz:
    """Every other kind of file is refused by name, and nothing in it is run."""

    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            load(path)
        assert str(path) in str(caught.value)

    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_text("label,pixel\n")
        self.refused(tmp_path / "a.npz", "not a readable NPZ file")

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").touch()
        self.refused(tmp_path / "a.npz", "not a readable NPZ file")

    def test_npy(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros(3))
        self.refused(tmp_path / "a.npy", "holds a single array, expected an NPZ file with x_train, y_train, x_test")

    def test_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
        self.refused(tmp_path / "a.npz", "not a readable NPZ file")
        assert not (tmp_path / "run").exists()

    def test_truncated(self, tmp_path: Path) -> None:
        path = npz(tmp_path, arrays())
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(path, "not a readable NPZ file")

    def test_damaged_inside(self, tmp_path: Path) -> None:
        path = npz(tmp_path, arrays())
        data = bytearray(path.read_bytes())
        data[300] ^= 0xFF
        path.write_bytes(data)
        self.refused(path, "x_train is not a readable array: Bad CRC-32 for file 'x_train.npy'")

    def test_empty_archive(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.npz", "w"):
            pass
        self.refused(tmp_path / "a.npz", "it holds nothing, expected x_train, y_train, x_test, y_test")

    def test_archive_of_text(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            for key in ("x_train", "y_train", "x_test", "y_test"):
                archive.writestr(key, "1,2,3")
        self.refused(tmp_path / "a.npz", "x_train is not a readable array: EOF: reading magic string, expected 8 bytes")


def test_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = f"{tmp_path}/nowhere does not exist: expected fashion-mnist, or the path of a folder of pictures, an NPZ"
    with pytest.raises(DataError, match=message):
        load(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load("nowhere")


def test_folder_without_idx_files(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "a", arrays())
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"is not an IDX folder: t10k-labels-idx1-ubyte are missing \(also as \.gz\)"):
        load(folder)


def test_bad_idx_folder_names_the_file(tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "a", arrays())
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{path} is truncated"):
        load(folder)
    write_idx(path, np.zeros((4, 5), np.uint8))
    with pytest.raises(DataError, match=f"{path}: expected images"):
        load(folder)


IMAGES4 = np.zeros((3, 2, 2, 1), np.uint8)
LABELS = np.array([0, 1, 1], np.int32)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES4.astype(float), LABELS, r"takes images uint8 \(n, H, W, C\) .* got float64 \(3, 2, 2, 1\)"),
        (IMAGES4[..., 0], LABELS, r"got uint8 \(3, 2, 2\)"),
        (IMAGES4, LABELS.astype(np.int64), r"int64 \(3,\)"),
        (IMAGES4, LABELS[:, None], r"int32 \(3, 1\)"),
        (IMAGES4[:0], LABELS[:0], "at least one"),
        (IMAGES4, LABELS[:2], r"as many labels as images, .* images \(3, 2, 2, 1\) and 2 labels"),
        (IMAGES4, LABELS + 1, "labels lie between 1 and 2, but there are 2 class names"),
        (IMAGES4, LABELS - 1, "labels lie between -1 and 0"),
        (
            IMAGES4,
            [0, 1, 1],
            "got images of type ndarray and labels of type list: convert them with numpy",
        ),
        (IMAGES4.tolist(), LABELS, "takes arrays, got images of type list and labels of type ndarray"),
    ],
)
def test_dataset_checks_itself(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(images, labels, ("a", "b"))


def test_dataset_is_frozen_and_takes() -> None:
    dataset = Dataset(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), LABELS, ("a", "b"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.labels = LABELS
    part = dataset.take(np.array([2, 0]))
    assert part.images[:, 0, 0, 0].tolist() == [8, 0] and part.labels.tolist() == [1, 0]
    assert part.class_names == ("a", "b")
    part.images[...] = 0
    assert dataset.images.max() == 11
