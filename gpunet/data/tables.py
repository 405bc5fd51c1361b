"""Tables with a column of labels: CSV and TSV, and Parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpunet.data.bounded import check_memory
from gpunet.data.classes import some
from gpunet.data.config import DataConfig
from gpunet.data.npy import npz_names, read_npz
from gpunet.data.parts import Found, Loaded, Part, as_features, assemble
from gpunet.errors import DataError
from gpunet.files import open_regular
from gpunet.packages import pip_install
from gpunet.tasks import CLASSIFICATION

logger = logging.getLogger("gpunet")

SUFFIXES = (".csv", ".tsv", ".parquet")
_LABELS = ("label", "labels", "class", "target", "y")
_PIXEL = re.compile(r"(pixel|px)[_ -]?\d+|\d+x\d+", re.IGNORECASE)
_NUMBER = re.compile(r"row (\d+), column (\d+)")


class _Table(NamedTuple):
    names: list[str]
    """Of the columns that are no labels."""
    values: np.ndarray
    labels: np.ndarray
    """(n,), or (n, K) for other tasks than classification."""
    targets: tuple[str, ...]
    """Names of the columns with the labels."""


def is_table_name(path: Path) -> bool:
    """Whether the file at `path` is read as a table, judged by its name."""
    return path.suffix.lower() in SUFFIXES


def is_table_folder(folder: Path) -> bool:
    """Whether `folder` holds a table called train."""
    return _in_folder(folder, ("train",)) is not None


def load_table(source: Path, config: DataConfig) -> Loaded:
    """The table at `source`; or those in the folder `source` that are called train, val and test.

    A CSV file has commas or semicolons between its columns, whichever are more in its first line, a TSV file tabs. Its
    first line is a header unless it holds numbers, and at most a class before or after them; the columns are then
    called 1, 2 and so on.

    The labels are in ``label_column``; by default in the column called label, labels, class, target or y, in whatever
    case; without one in the only column that holds no numbers, or else in the last one. All other columns are numbers:
    features, or the pixels of an image, if ``image_shape`` is given or if they are called pixel0, pixel1 ... or 1x1,
    1x2 ... and make up a square.

    Raises:
        DataError: a file cannot be read, has other columns than the training part's, no labels, or a value that is
            missing or no number.
    """
    paths: list[Path | None] = [source, None, None]
    if source.is_dir():
        paths = [_in_folder(source, names) for names in (("train",), ("test",), ("val", "valid", "validation"))]
    parts: list[Part | None] = []
    names: list[str] = []
    targets: tuple[str, ...] = ()
    for path in paths:
        if path is None:
            parts.append(None)
            continue
        table = _read(path, config)
        if names and table.names != names:
            raise DataError(f"the columns of {path} are not those of {paths[0]}: expected {some(names)}")
        names, targets = table.names, table.targets
        parts.append(Part(_as_pixels(table, config), table.labels, str(path), f"{path}, the labels"))
    train, test, validation = parts
    assert train is not None
    return assemble(Found(train, test, validation, features=tuple(names), targets=targets), config)


def read_rows(path: Path, features: Sequence[str], count: int) -> np.ndarray:
    """The rows of a table, or of an NPZ file with a single array, as features for a model: float32 (n, 1, 1, `count`).

    Columns are found by their names, `features`, in any order; others, such as one of labels, are left out. Where there
    are no names, there must be as many columns as features, in the order of the training.

    Raises:
        DataError: the file cannot be read, lacks a column, or has a value that is missing or no number.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        (values, *others) = read_npz(path, npz_names(path, "one array (n, features)"), ()).values()
        if others or values.ndim != 2 or values.shape[1] != count:
            raise DataError(f"{path}: expected one array (n, {count}), the rows to predict")
        return as_features(values, str(path), tuple(features))
    if suffix == ".parquet":
        names, columns = _parquet_columns(path)
        chosen = _feature_columns(names, features, count, path, header=True)
        if words := [names[index] for index in chosen if columns[index].dtype.kind not in "buif"]:
            raise DataError(f"{path}: expected numbers in each feature, not in {some(words)}")
        values = np.stack([columns[index].astype(np.float64) for index in chosen], axis=1)
    else:
        lines = _lines(path)
        delimiter, cells = _first_cells(path, lines)
        header = not all(map(_is_number, cells))
        names = [cell.strip() for cell in cells] if header else [str(number) for number in range(1, len(cells) + 1)]
        chosen = _feature_columns(names, features, count, path, header=header)
        if sum(1 for line in lines if line.strip()) <= header:
            raise DataError(f"{path} has no rows")
        check_memory(8 * len(lines) * count, f"{path}, {len(lines)} rows of {count} features,")
        values = _columns(lines, delimiter, int(header), chosen, float, path, names)
    return as_features(values, str(path), tuple(names[index] for index in chosen))


def _feature_columns(names: list[str], features: Sequence[str], count: int, path: Path, *, header: bool) -> list[int]:
    """The indices of the columns with the features."""
    missing = [name for name in features if name not in names]
    if features and not missing:
        return [names.index(name) for name in features]
    if (features and header) or len(names) != count:
        wanted = f"the columns {some(features)}" if features else f"{count} columns"
        raise DataError(f"{path}: the model takes {wanted}; found {some(names) if header else f'{len(names)} columns'}")
    return list(range(count))


def _in_folder(folder: Path, names: Sequence[str]) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _as_pixels(table: _Table, config: DataConfig) -> np.ndarray:
    """The values (n, F); as images (n, H, W, C) if the columns are called as pixels are."""
    count = len(table.names)
    if config.image_shape or not all(_PIXEL.fullmatch(name) for name in table.names):
        return table.values
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            logger.info("the columns %s ... are pixels of %d x %d x %d", table.names[0], side, side, channels)
            return table.values.reshape(-1, side, side, channels)
    return table.values


def _read(path: Path, config: DataConfig) -> _Table:
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, config)
    wanted = config.label_column
    lines = _lines(path)
    delimiter, cells = _first_cells(path, lines)
    if len(cells) < 2:
        raise DataError(
            f"{path} has no table in its first line: expected labels and features separated by "
            f"{'tabs' if delimiter == chr(9) else 'commas or semicolons'}"
        )
    words = [index for index, cell in enumerate(cells) if not _is_number(cell)]
    # A single word at either end is a class, unless it is the name of the labels over columns that are called 0, 1 ...
    lone = len(words) == 1 and words[0] in (0, len(cells) - 1) and cells[words[0]].strip().lower() not in _LABELS
    header = bool(words) and not (lone and cells[words[0]].strip() != wanted)
    names = [cell.strip() for cell in cells] if header else [str(number) for number in range(1, len(cells) + 1)]
    filled = [line for line in lines if line.strip()]
    example = next(csv.reader(filled[int(header) :][:1], delimiter=delimiter), [])
    if len(example) > len(names):
        raise DataError(f"{path}: its first row has {len(example)} columns, but its header names {len(names)}")
    chosen = _label_columns(names, [not _is_number(cell) for cell in example], config, path)
    rows = len(filled) - header
    if rows < 1:
        raise DataError(f"{path} has no rows")
    check_memory(8 * rows * len(names), f"{path}, {rows} rows of {len(names)} columns,")
    others = [index for index in range(len(names)) if index not in chosen]
    skipped = int(header)
    values = _columns(lines, delimiter, skipped, others, float, path, names)
    labels = _numbers_where_possible(_columns(lines, delimiter, skipped, chosen, str, path, names))
    targets = tuple(names[index] for index in chosen)
    if config.task == CLASSIFICATION:
        labels = labels[:, 0]
    return _Table([names[index] for index in others], values, labels, targets)


def _first_cells(path: Path, lines: Sequence[str]) -> tuple[str, list[str]]:
    """What separates the columns, and the cells of the first line that is not empty."""
    first = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;", key=first.count)
    return delimiter, next(csv.reader([first], delimiter=delimiter), [])


def _lines(path: Path) -> list[str]:
    """The lines of a file in UTF-8."""
    try:
        with open_regular(path) as file:
            check_memory(3 * os.fstat(file.fileno()).st_size, str(path))
            return file.read().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error


def _columns(
    lines: list[str], delimiter: str, skipped: int, columns: list[int], kind: type, path: Path, names: list[str]
) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found: np.ndarray = np.loadtxt(
                lines,
                dtype=kind,
                delimiter=delimiter,
                quotechar='"',
                comments=None,
                skiprows=skipped,
                usecols=columns,
                ndmin=2,
            )
            return found
    except (ValueError, UserWarning) as error:
        reason = str(error).removesuffix(".")
        place = _NUMBER.search(reason)
        if place:  # NumPy counts rows from 0, columns from 1
            column = names[min(int(place[2]), len(names)) - 1]
            reason = f"{reason.split(' at row')[0]} in row {int(place[1]) + 1} of the data, column {column}"
        raise DataError(
            f"{path}: {reason}; expected a number in each column but the labels': fill in missing values, encode "
            "categories as numbers, and give --label-column if the labels are in another column"
        ) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label_columns(names: list[str], of_words: list[bool], config: DataConfig, path: Path) -> list[int]:
    """The indices of the columns with the labels, one for a classification; `of_words` hold no numbers."""
    wanted = config.label_column
    if config.task == CLASSIFICATION or wanted in names or not wanted:
        return [_label_column(names, of_words, wanted, path)]
    found = [_label_column(names, of_words, name.strip(), path) for name in wanted.split(",") if name.strip()]
    if len(set(found)) < max(1, len(found)) or len(found) == len(names):
        raise DataError(f"{path}: label_column {wanted!r} must name different columns, and leave some for the features")
    return found


def _label_column(names: list[str], of_words: list[bool], wanted: str, path: Path) -> int:
    """The index of the column with the labels; `of_words` are the columns that hold no numbers."""
    if wanted:
        if wanted not in names:
            raise DataError(f"{path} has no column {wanted!r}: expected one of {some(names)}")
        return names.index(wanted)
    lower = [name.lower() for name in names]
    for name in _LABELS:
        if name in lower:
            return lower.index(name)
    only = of_words.index(True) if of_words.count(True) == 1 else len(names) - 1
    logger.warning(
        "%s: no column is called %s: the labels are taken from the %s, %s; --label-column names another",
        path,
        ", ".join(_LABELS),
        "only column that holds no numbers" if of_words.count(True) == 1 else "last column",
        names[only],
    )
    return only


def _numbers_where_possible(labels: np.ndarray) -> np.ndarray:
    """Strings as numbers if all of them are: the class 10 comes after 9."""
    try:
        return labels.astype(np.float64)
    except ValueError:
        return labels


def _parquet_columns(path: Path) -> tuple[list[str], list[np.ndarray]]:
    """Names and values of all columns."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow: {pip_install('tables')}, or save the table as CSV"
        ) from error
    try:
        with open_regular(path) as file:
            table = parquet.read_table(file)
            names = [str(name) for name in table.column_names]
            check_memory(8 * table.num_rows * len(names), str(path))
            columns = [np.asarray(column.to_pylist()) for column in table.columns]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # pyarrow's errors for damaged files
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    return names, columns


def _read_parquet(path: Path, config: DataConfig) -> _Table:
    names, columns = _parquet_columns(path)
    chosen = _label_columns(names, [column.dtype.kind not in "buif" for column in columns], config, path)
    others = [index for index in range(len(names)) if index not in chosen]
    words = [names[index] for index in others if columns[index].dtype.kind not in "buif"]
    if words or not others:
        raise DataError(f"{path}: expected numbers in each column but the labels', not in {some(words)}")
    values = np.stack([columns[index].astype(np.float64) for index in others], axis=1)
    if config.task == CLASSIFICATION:
        return _Table([names[index] for index in others], values, columns[chosen[0]], (names[chosen[0]],))
    labels = np.stack([columns[index] for index in chosen], axis=1)
    return _Table([names[index] for index in others], values, labels, tuple(names[index] for index in chosen))
