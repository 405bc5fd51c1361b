"""Finding and verifying the files, with made-up ones in place of Fashion-MNIST's."""

from __future__ import annotations

import gzip
import hashlib
import logging
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from gpunet.data import FASHION_MNIST_CLASSES, files, idx, load
from gpunet.data.download import fetch
from gpunet.data.files import FILES, cache_folder, find, verify
from gpunet.errors import DataError, OutputError
from gpunet.files import open_regular
from tests.data.conftest import CONTENTS, fill

IMAGES = "train-images-idx3-ubyte"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw", "fashion-mnist"])
def test_given_folder(tmp_path: Path, contents: dict[str, bytes], inner: str, compress: bool) -> None:
    folder = fill(tmp_path / "given" / inner, contents, compress=compress)
    assert find(tmp_path / "given") == fetch(str(tmp_path / "given")) == folder
    assert verify(tmp_path / "given") == {name: sha256(data) for name, data in contents.items()}


def test_given_folder_with_dots_in_the_names(tmp_path: Path, contents: dict[str, bytes]) -> None:
    folder = fill(tmp_path / "given", {name.replace("-idx", ".idx"): data for name, data in contents.items()})
    assert find(folder) == folder


def test_search_order(tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert find() is None
    with pytest.raises(DataError, match="not on this machine"):
        verify()
    home, work = tmp_path / "home", tmp_path / "work"
    # from the last place looked at to the first
    for folder in (
        tmp_path / "system",
        home / ".keras" / "datasets" / "fashion-mnist",
        work / "datasets" / "fashion-mnist",
        work / "data" / "FashionMNIST" / "raw",
        work / "FashionMNIST" / "raw",
        home / ".cache" / "gpunet" / "fashion-mnist",
    ):
        fill(folder, contents)
        assert find() == folder
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert find() == folder
    for variable, value, inner in (
        ("XDG_CACHE_HOME", tmp_path / "xdg", "gpunet/fashion-mnist"),
        ("GPUNET_CACHE", tmp_path / "cache", "fashion-mnist"),
        ("GPUNET_DATA", tmp_path / "data", ""),
    ):
        monkeypatch.setenv(variable, str(value))
        folder = fill(value / inner, contents)
        assert find() == fetch() == folder
    assert find(work / "datasets") == work / "datasets" / "fashion-mnist"


def test_home_is_expanded(tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "home" / "mine", contents)
    assert find("~/mine") == folder
    monkeypatch.setenv("GPUNET_CACHE", "~/cache")
    assert cache_folder() == tmp_path / "home" / "cache" / "fashion-mnist"


def damaged(name: str, contents: dict[str, bytes], kind: str) -> None:
    """Damage the file `name` among `contents`."""
    data = contents[name]
    if kind == "missing":
        del contents[name]
    elif kind == "truncated":
        contents[name] = data[:-5]
    elif kind == "too long":
        contents[name] = data + b"x"
    elif kind == "damaged":
        contents[name] = data[:-1] + bytes([data[-1] ^ 1])
    elif kind == "swapped":
        contents[name] = contents["t10k-images-idx3-ubyte"]
    elif kind == "empty":
        contents[name] = b""
    elif kind == "cut gzip":
        contents[name] = gzip.compress(data)[:-9]
    elif kind == "bad gzip":
        contents[name] = gzip.compress(data)[:-8] + bytes(8)


# kind, what the message says after the file's path, whether there is an actual sum
DAMAGES = [
    ("missing", r" is missing \(also as \.gz\)", False),
    ("truncated", " is truncated: expected 40 bytes after decompression, actual 35", True),
    ("too long", " is too long: expected 40 bytes after decompression, actual more than 40", False),
    ("damaged", " is damaged", True),
    ("swapped", " is swapped: it should be train-images-idx3-ubyte but holds t10k-images-idx3-ubyte", True),
    ("empty", " is truncated: expected 40 bytes after decompression, actual 0", True),
    ("cut gzip", r" is truncated: its gzip stream ends early, after \d+ bytes", False),
    ("bad gzip", " is damaged: its gzip stream cannot be decompressed", False),
]


@pytest.mark.parametrize(("kind", "message", "summed"), DAMAGES)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_damage_in_a_given_folder(
    tmp_path: Path,
    contents: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    message: str,
    summed: bool,
    by: str,
) -> None:
    fill(tmp_path / "system", contents)  # not moved on to
    damaged(IMAGES, contents, kind)
    folder = fill(tmp_path / "given", contents)
    if by == "environment":
        monkeypatch.setenv("GPUNET_DATA", str(folder))
    for function in (find, fetch, verify):
        with pytest.raises(DataError, match=f"{folder / IMAGES}{message}") as caught:
            function(folder if by == "argument" else None)
        assert f"expected sha256 {sha256(CONTENTS[IMAGES])}" in str(caught.value)
        if summed:
            assert f"actual {sha256(contents[IMAGES])}" in str(caught.value)
        assert "labels" not in str(caught.value)  # the others are not blamed
        assert caught.value.exit_code == 3


def test_two_swapped_files_are_both_named(tmp_path: Path, contents: dict[str, bytes]) -> None:
    a, b = "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
    contents[a], contents[b] = contents[b], contents[a]
    with pytest.raises(DataError) as caught:
        find(fill(tmp_path / "given", contents))
    assert f"it should be {a} but holds {b}" in str(caught.value)
    assert f"it should be {b} but holds {a}" in str(caught.value)


def test_given_folder_without_files(tmp_path: Path, contents: dict[str, bytes]) -> None:
    (tmp_path / "given").mkdir()
    with pytest.raises(
        DataError, match=r"given \(the folder given\) does not contain Fashion-MNIST: train-images-idx3"
    ):
        fetch(tmp_path / "given")


def test_given_folder_that_is_none(tmp_path: Path, contents: dict[str, bytes]) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"{path.name} .* is not a folder"):
            find(path)


def test_unreadable_file(tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "given", contents)

    def refuse(path: Path) -> IO[bytes]:
        if path.name == IMAGES:
            raise PermissionError(13, "Permission denied", str(path))
        return open_regular(path)

    monkeypatch.setattr(idx, "open_regular", refuse)
    with pytest.raises(DataError, match=f"cannot read {folder / IMAGES}: Permission denied"):
        find(folder)


def test_damaged_place_is_passed_over_with_a_warning(
    tmp_path: Path, contents: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    good = fill(tmp_path / "system", contents)
    damaged(IMAGES, contents, "truncated")
    cache = fill(tmp_path / "home" / ".cache" / "gpunet" / "fashion-mnist", contents)
    with caplog.at_level(logging.DEBUG, "gpunet"):
        assert find() == good
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{cache} skipped: {cache / IMAGES} is truncated" in warning
    assert f"Fashion-MNIST: found in {good}" in caplog.messages
    assert any("not in" in message and ".keras" in message for message in caplog.messages)


def test_no_home_folder(tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(OutputError, match="no home folder for the cache: set GPUNET_CACHE"):
        cache_folder()
    assert find() is None
    folder = fill(tmp_path / "system", contents)
    assert find() == folder


def test_table_is_complete() -> None:
    assert list(FILES) == list(CONTENTS)
    assert FILES[IMAGES].size == 16 + 60_000 * 28 * 28
    assert files.FILES["t10k-labels-idx1-ubyte"].size == 8 + 10_000


@pytest.mark.data
def test_real_files() -> None:
    folder = find()
    if folder is None:
        pytest.skip("Fashion-MNIST is not on this machine: set GPUNET_DATA or call gpunet.data.fetch()")
    assert verify(folder)[IMAGES] == "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    train, test = load(folder)
    assert train.images.shape == (60_000, 28, 28, 1) and test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    assert train.class_names == FASHION_MNIST_CLASSES
    # the figures that the data set is known by
    assert abs(train.images.mean() / 255 - 0.2860) < 5e-5 and abs(train.images.std() / 255 - 0.3530) < 5e-5
