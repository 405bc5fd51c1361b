"""Folders of pictures, and of other known files."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpunet.data import load
from gpunet.data.idx import write_idx
from gpunet.errors import DataError
from gpunet.experiments.prepare import DataConfig, prepare

RNG = np.random.default_rng(0)


def picture(path: Path, shape: tuple[int, ...] = (5, 4, 3)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_classes_and_files_are_sorted(tmp_path: Path) -> None:
    names = ["dogs/b.png", "cats/2.PNG", "cats/10.bmp", "dogs/a/x.png", "cats/.hidden.png", "dogs/c.tiff"]
    saved = {name: picture(tmp_path / name) for name in names}
    saved |= {
        f"{part}/{i}.png": picture(tmp_path / part / f"{i}.png") for part in ("ants", "cats") for i in range(20, 30)
    }
    train, test = load(tmp_path, test_fraction=0.2)
    assert train.class_names == ("ants", "cats", "dogs") and len(train) + len(test) == 25
    order = sorted((name for name in saved if "hidden" not in name), key=lambda name: name.split("/"))
    data = prepare(DataConfig(data=str(tmp_path), test_fraction=0.2))
    assert data.test_indices is not None and data.test.images.shape == (5, 5, 4, 3)
    for index, image, label in zip(data.test_indices, data.test.images, data.test.labels, strict=True):
        np.testing.assert_array_equal(image, saved[order[index]])
        assert train.class_names[label] == order[index].split("/")[0]


def test_parts_are_used_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2), ("test", 1)):
        for name in ("a", "b"):
            for i in range(count):
                Image.new("L", (3, 2), count * 10 + i).save(_made(tmp_path / part / name) / f"{i}.png")
    data = prepare(DataConfig(data=str(tmp_path)))
    assert data.split.train.images[:, 0, 0, 0].tolist() == [40, 41, 42, 43] * 2
    assert data.split.validation.images[:, 0, 0, 0].tolist() == [20, 21] * 2
    assert data.test.images[:, 0, 0, 0].tolist() == [10, 10] and data.test.image_shape == (2, 3, 1)
    assert data.test.labels.tolist() == [0, 1]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _two_classes(root: Path, count: int = 6, shape: tuple[int, ...] = (5, 4, 3)) -> Path:
    for name in ("a", "b"):
        for i in range(count):
            picture(root / name / f"{i}.png", shape)
    return root


def test_every_damaged_file_is_named_and_left_out_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _two_classes(tmp_path)
    bad = [tmp_path / "a" / "1.png", tmp_path / "a" / "7.png", tmp_path / "b" / "2.png"]
    bad[0].write_bytes(bad[0].read_bytes()[:-30])  # ends within the pixels
    bad[1].write_bytes(b"no picture")
    bad[2].write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert "3 files cannot be read" in str(caught.value) and "--skip-damaged" in str(caught.value)
    assert all(str(path) in str(caught.value) for path in bad)
    with caplog.at_level(logging.WARNING, "gpunet"):
        train, test = load(tmp_path, skip_damaged=True)
    assert len(train) + len(test) == 10
    assert [all(str(path) in text for path in bad) for text in caplog.messages] == [True]


def test_sizes_and_channels(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    tall = picture(tmp_path / "a" / "tall.png", (8, 4))
    with pytest.raises(DataError, match=r"2 different sizes \(12 of 5 x 4, 1 of 8 x 4\): .* --image-size 64"):
        load(tmp_path)
    train, test = load(tmp_path, image_size=8, channels=1)
    found = [image for image in np.concatenate([train.images, test.images]) if (image[:, 2:6, 0] == tall).all()]
    assert len(found) == 1 and not found[0][:, :2].any() and not found[0][:, 6:].any()  # centred on black
    assert load(tmp_path, image_size=(8, 6))[0].image_shape == (8, 6, 3)
    assert load(_two_classes(tmp_path / "grey", shape=(3, 3)))[0].image_shape == (3, 3, 1)
    assert load(tmp_path / "grey", channels=3)[0].image_shape == (3, 3, 3)


def test_bright_pictures_are_not_inverted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(4):
            Image.new("L", (3, 3), 250 + i).save(_made(tmp_path / name) / f"{i}.png")
    train, _ = load(tmp_path)
    assert train.images.min() >= 250 and train.value_range == (0, 255)


def test_folders_that_are_no_data_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"has no data set: expected a folder of pictures for each class"):
        load(tmp_path)
    _two_classes(tmp_path)
    (tmp_path / "a" / "notes.txt").write_text("notes")
    with caplog.at_level(logging.WARNING, "gpunet"):
        load(tmp_path)
    assert [
        f"1 files that are no pictures are ignored: {tmp_path / 'a' / 'notes.txt'}" in m for m in caplog.messages
    ] == [True]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no pictures: expected files with .png"):
        load(tmp_path)


def test_unknown_class_in_the_test_part(tmp_path: Path) -> None:
    _two_classes(tmp_path / "train")
    picture(tmp_path / "test" / "c" / "0.png")
    with pytest.raises(DataError, match=r"test has labels that .*train lacks: c"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("split", "labels", "names"), [("letters", [1, 3], ("A", "C")), ("balanced", [36, 46], ("a", "t"))]
)
def test_emnist_is_turned_upright(tmp_path: Path, split: str, labels: list[int], names: tuple[str, ...]) -> None:
    images = RNG.integers(0, 256, (6, 4, 4), np.uint8)
    for part in ("train", "test"):
        write_idx(tmp_path / f"emnist-{split}-{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"emnist-{split}-{part}-labels-idx1-ubyte.gz", np.array(labels * 3, np.uint8))
    train, test = load(tmp_path)
    assert train.class_names == names and test.labels.tolist() == [0, 1] * 3
    np.testing.assert_array_equal(train.images[..., 0], images.transpose(0, 2, 1))
    write_idx(tmp_path / "emnist-digits-train-images-idx3-ubyte", images)
    with pytest.raises(DataError, match=r"has several of EMNIST's splits"):
        load(tmp_path)


def test_cifar_in_its_binary_version(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = np.arange(12) % 10
    records = [
        struct.pack("B", label) + image.transpose(2, 0, 1).tobytes()
        for image, label in zip(images, labels, strict=True)
    ]
    for i in range(5):
        (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(b"".join(records[2 * i : 2 * i + 2]))
    (tmp_path / "test_batch.bin").write_bytes(b"".join(records[10:]))
    names = [f"n{i}" for i in range(10)]
    (tmp_path / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    train, test = load(tmp_path)
    np.testing.assert_array_equal(train.images, images[:10])
    np.testing.assert_array_equal(test.images, images[10:])
    assert test.labels.tolist() == [0, 1] and train.class_names == tuple(names)
    (tmp_path / "data_batch_3.bin").write_bytes(records[0][:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin is damaged: 3072 bytes are no multiple of 3073"):
        load(tmp_path)


def test_cifars_pickles_are_refused(tmp_path: Path) -> None:
    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
    with pytest.raises(DataError, match=r"pickles, which run code when they are read: .* get the binary version"):
        load(tmp_path)
    assert not (tmp_path / "run").exists()
