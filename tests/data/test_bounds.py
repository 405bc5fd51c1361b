"""What small files cannot do: take memory that they do not fill, or be read twice."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from gpunet.data import bounded, idx, load
from gpunet.data.download import fetch
from gpunet.data.files import find
from gpunet.data.idx import read_idx
from gpunet.data.npy import read_npy, read_npz
from gpunet.errors import DataError
from gpunet.files import open_regular
from gpunet.machine import available_memory
from tests.data.conftest import fill
from tests.memory import at_most

MIB = 2**20
ZEROS = bytes(64 * MIB)


def header(*shape: int) -> bytes:
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


def little_memory(monkeypatch: pytest.MonkeyPatch, size: int = 1000) -> None:
    monkeypatch.setattr(bounded, "available_memory", lambda: size)


class TestIdx:
    def test_no_more_is_decompressed_than_declared(self, tmp_path: Path) -> None:
        path = tmp_path / "a.gz"
        path.write_bytes(gzip.compress(header(2, 3) + ZEROS, 1))
        message = (
            r"has trailing bytes: its header declares 2 x 3 of uint8, that is 18 bytes, but the file has at least 10"
        )
        with at_most(4 * MIB), pytest.raises(DataError, match=message):
            read_idx(path)

    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_no_more_is_allocated_than_is_there(self, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
        path = tmp_path / "file"
        for shape in ((2**32 - 1, 2**32 - 1), (2**20, 100)):
            path.write_bytes(pack(header(*shape) + bytes(10**6)))
            with at_most(4 * MIB), pytest.raises(DataError, match=f"is truncated: its header declares {shape[0]} x"):
                read_idx(path)

    def test_larger_than_the_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.gz"
        path.write_bytes(gzip.compress(header(10, 100) + bytes(1000)))
        little_memory(monkeypatch, 1012)
        assert read_idx(path).shape == (10, 100)
        little_memory(monkeypatch, 1011)
        with pytest.raises(DataError, match="10 x 100 of uint8, takes 1012 bytes of memory, but this machine has 1011"):
            read_idx(path)

    def test_bytes_are_held_once(self, tmp_path: Path) -> None:
        path = tmp_path / "a.gz"
        path.write_bytes(gzip.compress(header(64, MIB) + ZEROS, 1))
        with at_most(80 * MIB):  # the buffer grows by an eighth at a time
            assert read_idx(path).shape == (64, MIB)

    def test_shapes_that_numpy_cannot_hold(self, tmp_path: Path) -> None:
        for shape in ((0, 2**32 - 1, 2**32 - 1), (1,) * 65):
            (tmp_path / "file").write_bytes(header(*shape) + b"x" * (0 not in shape))
            with pytest.raises(DataError, match=r"which is no array|rank 65 holds no array of 1 to 64 dimensions"):
                read_idx(tmp_path / "file")

    @pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
    def test_without_an_end(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "file"
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(kind)
        with pytest.raises(DataError, match=r"cannot read .*: it is a pipe or a device, expected a regular file"):
            read_idx(path)


def npy(shape: tuple[int, ...], data: bytes, dtype: str = "|u1") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


class TestNpz:
    @pytest.mark.parametrize(
        ("shape", "data", "message"),
        [
            (
                (2, 3),
                ZEROS,
                r"a has trailing bytes: its header declares uint8 \(2, 3\), that is 134 bytes, but it",
            ),
            (
                (2**40,),
                bytes(9),
                r"a is truncated: .*, that is 1099511627904 bytes, but it has 137",
            ),
            ((-1, -6), bytes(6), r"a is not a readable array: a header that declares uint8 \(-1, -6\)"),
            ((0, 2**40, 2**40), b"", "a holds no array"),
        ],
    )
    def test_header_and_size_must_agree(
        self, tmp_path: Path, shape: tuple[int, ...], data: bytes, message: str
    ) -> None:
        path = archive(tmp_path / "a.npz", {"a": npy(shape, data)})
        with at_most(MIB), pytest.raises(DataError, match=message):
            read_npz(path, ["a"])
        content = npy(shape, data)
        with pytest.raises(DataError, match=message):
            read_npy(io.BytesIO(content), len(content), "a")

    def test_size_that_is_a_lie(self, tmp_path: Path) -> None:
        path = archive(tmp_path / "a.npz", {"a": npy((100,), bytes(100))})
        size, lie = 228, 2**31
        content = path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", lie))
        path.write_bytes(content.replace(b"(100,), }      ", f"({lie - 128},), }}".encode()))
        with at_most(4 * MIB), pytest.raises(DataError):
            read_npz(path, ["a"])

    def test_only_what_is_wanted_is_read(self, tmp_path: Path) -> None:
        members = {"a": npy((3,), bytes((1, 2, 3))), "other": npy((64, MIB), ZEROS), "text": b"no array"}
        path = archive(tmp_path / "a.npz", members)
        with at_most(MIB):
            found = read_npz(path, ["a"], ["b"])
        assert {name: array.tolist() for name, array in found.items()} == {"a": [1, 2, 3]}

    def test_larger_than_the_memory_altogether(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = archive(tmp_path / "a.npz", {"a": npy((400,), bytes(400)), "b": npy((400,), bytes(400))})
        little_memory(monkeypatch)
        assert len(read_npz(path, ["a"])["a"]) == 400
        with pytest.raises(DataError, match=r"a.npz takes 1056 bytes of memory, but this machine has 1000 left"):
            read_npz(path, ["a", "b"])

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_methods_that_decompress_without_a_bound(self, tmp_path: Path, method: int) -> None:
        path = archive(tmp_path / "a.npz", {"a": npy((3,), bytes(3))}, method)
        with pytest.raises(DataError, match="a is compressed by a method that NumPy does not write"):
            read_npz(path, ["a"])

    @pytest.mark.parametrize("dtype", ["|u1", "<i2", ">f4", "<f8", "<U3", "|S2", ">i8"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_arrays_are_as_numpy_reads_them(self, tmp_path: Path, dtype: str, order: str) -> None:
        array = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)
        np.savez(tmp_path / "a.npz", a=array, empty=array[:0])
        found = read_npz(tmp_path / "a.npz", ["a", "empty"])
        with np.load(tmp_path / "a.npz") as expected:
            for name in ("a", "empty"):
                assert found[name].dtype.isnative and found[name].flags.writeable
                np.testing.assert_array_equal(found[name], expected[name], strict=dtype[0] != ">")


class TestFilesAreReadOnce:
    """What is verified is what is used: a file that changes in between cannot be used unverified."""

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        count: Counter[str] = Counter()

        def counted(path: Path) -> IO[bytes]:
            count[path.name.removesuffix(".gz")] += 1
            return open_regular(path)

        monkeypatch.setattr(idx, "open_regular", counted)
        return count

    @pytest.mark.parametrize("compress", [False, True])
    def test_fashion_mnist(
        self, tmp_path: Path, contents: dict[str, bytes], opened: Counter[str], compress: bool
    ) -> None:
        fill(tmp_path / "system", contents, compress=compress)
        train, _ = load("fashion-mnist")
        assert train.images.ravel().tolist() == list(range(24)) and train.images.flags.writeable
        assert opened == dict.fromkeys(contents, 1)

    def test_folder(self, tmp_path: Path, contents: dict[str, bytes], opened: Counter[str]) -> None:
        load(fill(tmp_path / "folder", contents))
        assert opened == dict.fromkeys(contents, 1)

    def test_what_was_verified_is_used(
        self, tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = fill(tmp_path / "system", contents)
        name = "train-images-idx3-ubyte"

        def changing(path: Path) -> IO[bytes]:
            file = open_regular(path)
            if path.name == name:  # replaced as soon as it is open, as another process could
                path.unlink()
                path.write_bytes(contents[name][:-24] + bytes(24))
            return file

        with monkeypatch.context() as patch:
            patch.setattr(idx, "open_regular", changing)
            train, _ = load("fashion-mnist")
        assert train.images.ravel().tolist() == list(range(24))
        with pytest.raises(DataError, match="is damaged"):
            find(folder)


def test_longer_than_any_of_the_four_files(tmp_path: Path, contents: dict[str, bytes]) -> None:
    contents["t10k-labels-idx1-ubyte"] = ZEROS
    folder = fill(tmp_path / "given", contents, compress=True)
    with at_most(4 * MIB), pytest.raises(DataError, match=r"is too long: expected 10 bytes .* actual more than 40;"):
        fetch(folder)


def test_memory_that_is_left_is_plausible() -> None:
    left = available_memory()
    assert left is not None and 16 * MIB < left < 2**50
