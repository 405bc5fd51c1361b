"""Classes: any labels, as they are in files and arrays, to class indices with names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.errors import DataError
from gpunet.tasks import MULTILABEL

logger = logging.getLogger("gpunet")

MOST_CLASSES = 10_000
"""More are treated as an error: as numbers to be predicted, not classes."""


def encode(
    parts: Sequence[np.ndarray], sources: Sequence[str], class_names: Sequence[str] | None = None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The labels of each part as class indices, int32 (n,), and the names of the classes.

    Args:
        parts: those of the training part first. Whole numbers (of any dtype), truth values, strings (n,) or (n, 1), or
            one-hot rows (n, classes).
        class_names: whole numbers are then indices into them. Without them, the classes are the labels of the training
            part, in ascending order, and called by what they are: ``7``, ``cat``.

    Raises:
        DataError: labels are of another kind, empty, unknown, or of a single class; `sources` name the parts.
    """
    columns = [_column(np.asarray(part), source) for part, source in zip(parts, sources, strict=True)]
    if len({column.dtype.kind in "US" for column in columns}) > 1:
        raise DataError(f"labels are strings in one part and numbers in another: {', '.join(sources)}")
    present = np.unique(columns[0])
    if len(present) > MOST_CLASSES:
        raise DataError(
            f"{sources[0]} holds {len(present)} different labels, expected at most {MOST_CLASSES} classes: to "
            "predict numbers, give --task regression (task= in Python)"
        )
    if len(present) < 2:
        raise DataError(f"{sources[0]} holds a single class ({present[0]}), expected two or more")
    known = present
    if class_names is not None:
        known = np.asarray(class_names) if present.dtype.kind in "US" else np.arange(len(class_names))
        beyond = np.setdiff1d(present, known)
        if len(beyond):
            raise DataError(
                f"{sources[0]} has labels without a class name: {some(beyond)}; there are {len(class_names)} class "
                "names, for the labels from 0"
            )
        absent = np.setdiff1d(known, present)
        if len(absent):
            logger.warning("%s: no training images of class %s", sources[0], some(absent))
    for column, source in zip(columns[1:], sources[1:], strict=True):
        unknown = np.setdiff1d(column, present)
        if len(unknown):
            raise DataError(f"{source} has labels that {sources[0]} lacks: {some(unknown)}")
    order = np.argsort(known, kind="stable")
    indices = [order[np.searchsorted(known[order], column)].astype(np.int32) for column in columns]
    return indices, tuple(class_names) if class_names is not None else tuple(str(label) for label in known.tolist())


def _column(labels: np.ndarray, source: str) -> np.ndarray:
    """`labels` as one column of whole numbers or strings."""
    if labels.size == 0:
        raise DataError(f"{source} holds no labels")
    if labels.dtype.kind == "O":
        labels = _of_objects(labels, source)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "buif":
        return _of_one_hot(labels, source)
    if labels.ndim != 1:
        raise DataError(f"{source}: expected labels (n,), or one-hot rows (n, classes), got shape {labels.shape}")
    if labels.dtype.kind == "S":
        try:
            labels = np.char.decode(labels, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: labels are not UTF-8: {error}") from error
    if labels.dtype.kind == "U":
        return _of_strings(labels, source)
    if labels.dtype.kind == "f":
        wrong = labels[~(np.isfinite(labels) & (labels == np.rint(labels)) & (np.abs(labels) < 2**53))]
        if len(wrong):
            raise DataError(
                f"{source}: {len(wrong)} label(s) are no whole numbers, such as {wrong[0]:g}: expected classes, as "
                "whole numbers or strings; to predict numbers, give --task regression (task= in Python)"
            )
        return labels.astype(np.int64)
    if labels.dtype.kind not in "biu":
        raise DataError(f"{source}: labels must be whole numbers, strings or one-hot rows, got {labels.dtype}")
    return labels


def _of_strings(labels: np.ndarray, source: str) -> np.ndarray:
    try:
        names = decoded(labels)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: labels are not Unicode: {error}") from error
    stripped = np.char.strip(np.array(names))
    missing = int((stripped == "").sum())
    if missing:
        raise DataError(f"{source}: {missing} of {len(labels)} labels are empty: remove them, or name their class")
    return stripped


def decoded(strings: np.ndarray) -> list[str]:
    """NumPy's strings (n,), whose characters may be none of Unicode's, as Python's, or UnicodeDecodeError."""
    if strings.dtype.itemsize == 0:
        return [""] * len(strings)
    codes = np.ascontiguousarray(strings).view(np.uint32).reshape(len(strings), -1)
    return [row.astype("<u4").tobytes().decode("utf-32-le").rstrip("\0") for row in codes]


def _of_one_hot(rows: np.ndarray, source: str) -> np.ndarray:
    if not ((rows == 0) | (rows == 1)).all() or not (rows.sum(axis=1) == 1).all():
        raise DataError(
            f"{source}: labels of shape {rows.shape} must be one-hot rows, each with a single 1 and zeros: give one "
            "label for each image, or, where several may hold, --task multilabel; numbers need --task regression"
        )
    found: np.ndarray = rows.argmax(axis=1)
    return found


def _of_objects(labels: np.ndarray, source: str) -> np.ndarray:
    """An array of Python's strings or numbers, such as a column of pandas, as one of NumPy's."""
    values: list[Any] = labels.tolist()
    for kinds in ((str,), (bool, np.bool_), (int, float, np.number)):
        if labels.ndim <= 2 and all(isinstance(value, kinds) for value in labels.ravel().tolist()):
            return np.array(values)
    raise DataError(f"{source}: labels must be all strings or all numbers, one for each image")


def checked_names(names: Any, source: str) -> tuple[str, ...]:
    """Names of classes in an array (classes,) of strings; DataError unless they are distinct and not empty."""
    names = np.asarray(names)
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{source}: expected strings (classes,), got {names.dtype} {names.shape}")
    try:
        result = decoded(names) if names.dtype.kind == "U" else [name.decode() for name in names.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not Unicode: {error}") from error
    if len(set(result)) < len(result) or not all(result):
        raise DataError(f"{source}: expected distinct, non-empty names, got {', '.join(result)}")
    return tuple(result)


def some(items: Any) -> str:
    """The first ten of `items`, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:10])
    return shown if len(items) <= 10 else f"{shown} and {len(items) - 10} more"


def targets_of(
    parts: Sequence[np.ndarray], sources: Sequence[str], task: str, names: Sequence[str]
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The targets of each part for another task than classification, and their names.

    For ``regression`` float64 (n, K), for ``multilabel`` uint8 (n, K).

    parts: numbers or truth values, (n,) or (n, K); `sources` name them.
    names: of the K targets, if they are known; else they are called ``target``, or ``1``, ``2`` and so on.

    Raises:
        DataError: they are no finite numbers, labels are other than 0 and 1, or the parts have different K.
    """
    found = [_numbers(np.asarray(part), source) for part, source in zip(parts, sources, strict=True)]
    count = found[0].shape[1]
    for numbers, source in zip(found, sources, strict=True):
        if numbers.shape[1] != count:
            raise DataError(f"{source} has {numbers.shape[1]} targets for each row, but {sources[0]} {count}")
        wrong = numbers[(numbers != 0) & (numbers != 1)] if task == MULTILABEL else []
        if len(wrong):
            raise DataError(
                f"{source}: labels must be 0 or 1, one column for each, got {wrong[0]:g}: for one class of several "
                "give --task classification, for numbers --task regression"
            )
    if names and len(names) != count:
        raise DataError(f"{sources[0]} has {count} targets for each row, but there are {len(names)} names of them")
    default = ("target",) if count == 1 else tuple(str(number) for number in range(1, count + 1))
    dtype = np.uint8 if task == MULTILABEL else np.float64
    return [numbers.astype(dtype) for numbers in found], tuple(names) or default


def _numbers(values: np.ndarray, source: str) -> np.ndarray:
    if values.dtype.kind == "O":
        values = _of_objects(values, source)
    if values.dtype.kind not in "buif" or values.ndim not in (1, 2) or values.size == 0:
        raise DataError(
            f"{source}: expected numbers (n,) or (n, K), got {values.dtype} of shape {values.shape}; classes that are "
            "strings need --task classification"
        )
    numbers = values.astype(np.float64).reshape(len(values), -1)
    wrong = ~np.isfinite(numbers).all(axis=1)
    if wrong.any():
        raise DataError(
            f"{source}: {int(wrong.sum())} of {len(numbers)} targets are missing or infinite, the first in row "
            f"{int(np.argmax(wrong)) + 1}: remove these rows, or fill in the values"
        )
    return numbers
