"""Rows of a file: what is read is what was written, by pread one by one and by the kernel."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.errors import DTypeError, ShapeError
from gpunet.ops import file_rows
from gpunet.ops.file_rows import reference

ROWS = np.random.default_rng(0).integers(0, 256, (20, 3, 5), np.uint8)

READS = [file_rows.read_rows, functools.partial(file_rows.read_rows, threads=True), reference.read_rows]


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "rows").write_bytes(b"header" + ROWS.tobytes() + b"beyond")
    found = os.open(tmp_path / "rows", os.O_RDONLY)
    yield found
    os.close(found)


@pytest.mark.parametrize("read", READS, ids=["one thread", "threads", "reference"])
def test_rows_in_any_order(descriptor: int, read: Any) -> None:
    rows, places = np.array([19, 0, 7, 7, 3]), np.array([4, 0, 6, 2, 1])
    out = np.full((8, 3, 5), 7, np.uint8)
    assert read(descriptor, rows, places, out, start=6) == 5
    np.testing.assert_array_equal(out[places], ROWS[rows])
    assert (out[[3, 5, 7]] == 7).all(), "no other row is written to"
    assert read(descriptor, rows[:0], places[:0], out) == 0


@pytest.mark.parametrize("read", READS, ids=["one thread", "threads", "reference"])
def test_a_row_that_is_not_there_ends_it(descriptor: int, read: Any) -> None:
    out = np.zeros((3, 3, 5), np.uint8)
    assert read(descriptor, np.array([1, 20, 2]), np.arange(3), out, start=6) == 1
    np.testing.assert_array_equal(out[0], ROWS[1])
    assert (out[2] == 0).all()
    assert read(99999, np.arange(3), np.arange(3), out) == 0, "no such file"


def test_pieces_of_several_threads(tmp_path: Path) -> None:
    """More rows than a thread takes at a time: all of them in place, and the number of those before a missing one."""
    values = np.arange(1000, dtype=np.int64).reshape(500, 2)
    (tmp_path / "many").write_bytes(values.tobytes())
    descriptor = os.open(tmp_path / "many", os.O_RDONLY)
    try:
        rows = np.random.default_rng(1).permutation(500)
        places, out = np.argsort(rows, kind="stable"), np.zeros_like(values)
        assert file_rows.read_rows(descriptor, rows, places, out, threads=True) == 500
        np.testing.assert_array_equal(out[places], values[rows])
        for missing in ([130], [63, 130], [64, 499], [499]):
            holed = rows.copy()
            holed[missing] = 500
            assert file_rows.read_rows(descriptor, holed, places, out, threads=True) == missing[0]
    finally:
        os.close(descriptor)


def test_arguments_are_checked(descriptor: int) -> None:
    out, one = np.zeros((3, 3, 5), np.uint8), np.zeros(1, np.int64)
    for rows, places, target, error in (
        (one.astype(np.int32), one, out, DTypeError),
        (np.zeros(2, np.int64), one, out, ShapeError),
        (one, one + 3, out, ShapeError),
        (one, one - 1, out, ShapeError),
        (one, one, out[:, ::2], ShapeError),
    ):
        with pytest.raises(error):
            file_rows.read_rows(descriptor, rows, places, target)
