"""The IDX format against bytes written out by hand."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from gpunet.data.idx import read_idx, read_plain, write_idx
from gpunet.errors import DataError, OutputError
from tests.filesystem import read_only_folder

# name, type code, struct's letter, values
TYPES = [
    ("uint8", 0x08, "B", (0, 1, 255, 7, 8, 9)),
    ("int8", 0x09, "b", (0, -1, 127, -128, 8, 9)),
    ("int16", 0x0B, "h", (0, -2, 32767, -32768, 258, 9)),
    ("int32", 0x0C, "i", (0, -2, 2**31 - 1, -(2**31), 66051, 9)),
    ("float32", 0x0D, "f", (0.0, -1.5, 3.25, 1e10, -0.125, 9.0)),
    ("float64", 0x0E, "d", (0.0, -1.5, 3.25, 1e300, -0.125, 9.0)),
]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("dtype", "code", "letter", "values"), TYPES)
def test_bytes_of_each_type(
    tmp_path: Path, dtype: str, code: int, letter: str, values: tuple[float, ...], suffix: str
) -> None:
    data = struct.pack(">4B2I", 0, 0, code, 2, 2, 3) + struct.pack(f">6{letter}", *values)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    array = read_idx(path)
    assert (
        array.dtype == np.dtype(dtype) and array.dtype.isnative and array.flags.writeable and array.flags.c_contiguous
    )
    assert array.tolist() == [list(values[:3]), list(values[3:])]

    write_idx(tmp_path / f"again{suffix}", np.array(values, dtype).reshape(2, 3))
    assert read_plain(tmp_path / f"again{suffix}", limit=len(data)) == data


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=4, max_side=4)))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.gz"
    write_idx(path, array)
    np.testing.assert_array_equal(read_idx(path), array)


def test_writes_big_endian_and_strided_arrays_and_the_same_bytes_again(tmp_path: Path) -> None:
    array = np.arange(24, dtype=">i4").reshape(4, 6)[::2, 1::2]
    write_idx(tmp_path / "a.gz", array)
    write_idx(tmp_path / "b.gz", array)
    assert read_idx(tmp_path / "a.gz").tolist() == [[1, 3, 5], [13, 15, 17]]
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "plain.gz").write_bytes(b"abc")
    (tmp_path / "packed").write_bytes(gzip.compress(b"abc"))
    assert read_plain(tmp_path / "plain.gz", limit=9) == read_plain(tmp_path / "packed", limit=9) == b"abc"


GOOD = struct.pack(">4B2I", 0, 0, 8, 2, 2, 3) + bytes(6)
PACKED = gzip.compress(GOOD, mtime=0)  # without the time of day, as its bytes are part of the names of tests


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file: .* got nothing"),
        (b"\0\0\x08", "not an IDX file: .* got 00 00 08"),
        (b"<html>", "not an IDX file: expected two zero bytes, a type and a rank, got 3c 68 74 6d"),
        (b"\0\x01" + GOOD[2:], "not an IDX file"),
        (b"\0\0\x0a" + GOOD[3:], "unknown IDX type 0x0a, expected one of 0x08, 0x09, 0x0b, 0x0c, 0x0d, 0x0e"),
        (b"\0\0\x08\0", "rank 0"),
        (GOOD[:10], "truncated: a header of rank 2 has 12 bytes, the file has 10"),
        (GOOD[:-1], "truncated: its header declares 2 x 3 of uint8, that is 18 bytes, but the file has 17"),
        (GOOD + b"\0\0", "trailing bytes: its header declares 2 x 3 of uint8, that is 18 bytes, but the file has 20"),
        (
            b"\0\0\x0e\x03" + b"\xff" * 12,
            "4294967295 x 4294967295 x 4294967295 of float64, that is 633825299671392843082401579016 bytes",
        ),
        (PACKED[:-12], r"truncated: its gzip stream ends early, after \d+ bytes"),
        (PACKED[:-8] + bytes(8), "damaged: its gzip stream cannot be decompressed: CRC check failed"),
        (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "damaged: its gzip stream cannot be decompressed"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path}.*{message}"):
        read_idx(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nothing: No such file"):
        read_idx(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3, np.int64), "cannot hold int64, expected one of uint8, int8, int16, int32, float32, float64"),
        (np.zeros((), np.uint8), r"cannot hold an array of shape \(\)"),
        (np.broadcast_to(np.uint8(0), (2**32,)), r"cannot hold an array of shape \(4294967296,\)"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_idx(tmp_path / "file", array)


def test_read_only_folder() -> None:
    with read_only_folder() as folder, pytest.raises(OutputError, match="Permission denied"):
        write_idx(folder / "file", np.zeros(3, np.uint8))
