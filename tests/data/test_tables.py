"""Tables: CSV, TSV and Parquet."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from gpunet.data import Dataset, load
from gpunet.errors import DataError

VALUES = [[i + 0.5, -2.0 * i] for i in range(10)]
CLASSES = ["no", "yes"] * 5


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def check(loaded: tuple[Dataset, Dataset], names: tuple[str, ...] = ("no", "yes")) -> None:
    """All rows are there, each with its label."""
    rows = {}
    for part in loaded:
        assert part.is_table and part.class_names == names
        rows |= {
            tuple(row): names[label] for row, label in zip(part.images[:, 0, 0].tolist(), part.labels, strict=True)
        }
    assert rows == {tuple(row): names[i % 2] for i, row in enumerate(VALUES)}


@pytest.mark.parametrize(
    ("suffix", "separator", "header", "order"),
    [
        ("csv", ",", "Label,a,b", "lab"),
        ("csv", ";", "a;b;class", "abl"),
        ("tsv", "\t", "a\ttarget\tb", "alb"),
        ("csv", ",", None, "abl"),
        ("csv", ",", None, "lab"),
        ("csv", ",", "0,1,label", "abl"),
        ("csv", ",", '"a","kind","b, with a comma"', "alb"),
    ],
)
def test_rows_and_labels(tmp_path: Path, suffix: str, separator: str, header: str | None, order: str) -> None:
    lines = [] if header is None else [header]
    for (a, b), label in zip(VALUES, CLASSES, strict=True):
        lines.append(separator.join({"a": str(a), "b": str(b), "l": label}[letter] for letter in order))
    check(load(written(tmp_path / f"t.{suffix}", lines)))


def test_label_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{i % 2 + 5},{a},{b}" for i, (a, b) in enumerate(VALUES)]
    path = written(tmp_path / "t.csv", ["kind,a,b", *rows])
    check(load(path, label_column="kind"), ("5", "6"))
    check(load(written(tmp_path / "bare.csv", rows), label_column="1"), ("5", "6"))
    assert not caplog.messages
    with caplog.at_level(logging.WARNING, "gpunet"):
        load(path)
    assert "the labels are taken from the last column, b; --label-column names another" in caplog.text
    with pytest.raises(DataError, match="has no column 'sort': expected one of kind, a, b"):
        load(path, label_column="sort")


def test_parts_of_a_folder(tmp_path: Path) -> None:
    rows = [f"{a},{b},{label}" for (a, b), label in zip(VALUES, CLASSES, strict=True)]
    written(tmp_path / "train.csv", ["a,b,label", *rows[:8]])
    written(tmp_path / "test.csv", ["a,b,label", *rows[8:]])
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (8, 2)
    check((train, test))
    written(tmp_path / "test.csv", ["a,label", "1,no", "2,yes"])
    with pytest.raises(DataError, match=r"the columns of .*test.csv are not those of .*train.csv: expected a, b"):
        load(tmp_path)


def test_pixels(tmp_path: Path) -> None:
    pixels = np.arange(80).reshape(20, 4)
    rows = [",".join(map(str, [i % 2, *row])) for i, row in enumerate(pixels)]
    train, _ = load(written(tmp_path / "p.csv", ["label,pixel0,pixel1,pixel2,pixel3", *rows]))
    assert train.image_shape == (2, 2, 1) and train.images.dtype == np.uint8
    assert train.images[0].ravel().tolist() in pixels.tolist()
    again, _ = load(written(tmp_path / "q.csv", ["label,a,b,c,d", *rows]), image_shape=(1, 4))
    assert again.image_shape == (1, 4, 1) and again.images.ravel().tolist() == train.images.ravel().tolist()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,label", "1,x", ",y"], r"could not convert string '' to float64 in row 2 of the data, column a"),
        (["a,label", "1,x", "red,y"], r"string 'red' to float64 in row 2 of the data, column a; .* encode categories"),
        (["a,label", "1,x", "2"], r"invalid column index 1 at row 2"),
        (["a,label", "nan,x", "1,y", "2,x"], r"1 of \d rows have values that are missing, .* in a: remove these rows"),
        (["a,label"], "has no rows"),
        ([""], "has no table in its first line"),
        (["a", "1"], "separated by commas or semicolons"),
        (["a,label", "1,0.5", "2,0.7"], r"labels: 2 label\(s\) are no whole numbers"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    path = written(tmp_path / "t.csv", lines)
    with pytest.raises(DataError, match=message) as caught:
        load(path, test_fraction=0.34)
    assert str(path) in str(caught.value)


def test_options_for_other_data_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{a},{label}" for (a, _), label in zip(VALUES, CLASSES, strict=True)]
    path = written(tmp_path / "t.csv", ["a,label", *rows])
    with caplog.at_level(logging.WARNING, "gpunet"):
        load(path, image_size=8, channels=3)
    assert caplog.messages == [f"{path}: image_size, channels does not concern data of this kind, and is not used"]


def test_not_unicode(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,label\n1,\xff\n")
    with pytest.raises(DataError, match="is no text in UTF-8"):
        load(tmp_path / "t.csv")


def test_parquet_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(DataError, match=r"reading Parquet needs pyarrow: pip install '?pyarrow"):
        load(tmp_path / "t.parquet")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"a": [a for a, _ in VALUES], "b": [b for _, b in VALUES], "label": CLASSES}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    check(load(tmp_path / "t.parquet"))


def test_more_columns_than_the_header_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2,x\n3,4,y\n")
    with pytest.raises(DataError, match=r"a.csv: its first row has 3 columns, but its header names 2"):
        load(tmp_path / "a.csv")
