"""Reading the JSON files of a run folder. Another version may have written them, or a damaged disk changed them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpunet import files
from gpunet.errors import CheckpointError
from gpunet.files import PathLike
from gpunet.tasks import MULTILABEL, REGRESSION
from gpunet.training.history import Record

RESULT = "result.json"
"""In a run folder: the result, written last."""


@dataclass(frozen=True)
class Kind:
    """What an entry must be, in words and as a function."""

    words: str
    fits: Callable[[Any], bool]
    optional: bool = False
    """Whether it may be missing or null."""

    @property
    def or_none(self) -> Kind:
        return replace(self, optional=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


NUMBER = Kind("a number", _is_number)  # a loss may be NaN
FINITE = Kind("a number of at least 0", lambda value: _is_number(value) and math.isfinite(value) and value >= 0)
SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
WHOLE = Kind("a whole number of at least 0", lambda value: type(value) is int and 0 <= value < 2**63)
TEXT = Kind("a string", lambda value: isinstance(value, str))

_EPOCH = {
    "epoch": WHOLE,
    "stage": TEXT.or_none,
    "lr": FINITE,
    "train_loss": NUMBER,
    "train_accuracy": SHARE.or_none,
    "validation_loss": NUMBER,
    "validation_accuracy": SHARE.or_none,
    "seconds": FINITE,
    "images_per_second": FINITE,
}
_RESULT = {
    "test_correct": WHOLE,
    "test_total": WHOLE,
    "device": TEXT.or_none,
    "images_per_second": FINITE.or_none,
    "peak_memory_bytes": FINITE.or_none,
}
_ENVIRONMENT = {"split_sha256": TEXT.or_none, "device": TEXT.or_none}


def check_entries(document: Any, kinds: Mapping[str, Kind], where: str) -> dict[str, Any]:
    """`document`, if it is a JSON object whose entries are of `kinds`; it may have others.

    Raises:
        CheckpointError: it is not; the message begins with `where`.
    """
    if not isinstance(document, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    for name, kind in kinds.items():
        value = document.get(name)
        if kind.optional and value is None:
            continue
        if name not in document:
            raise CheckpointError(f"{where} has no {name}: another version or program wrote it, or it is damaged")
        if not kind.fits(value):
            raise CheckpointError(f"{where}: {name} must be {kind.words}, got {value!r:.80}")
    return document


def read_json(path: PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: it cannot be read, or is not JSON.
    """
    try:
        return files.read_json(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error


def read_result(run_dir: PathLike, more: Mapping[str, Kind] | None = None) -> dict[str, Any] | None:
    """The result of a run; None while it is not finished.

    Args:
        more: entries that the caller needs as well.

    Raises:
        CheckpointError: the file is damaged or of another version.
    """
    path = Path(run_dir) / RESULT
    if not path.is_file():
        return None
    document = read_json(path)
    if isinstance(document, dict) and document.get("task") in (REGRESSION, MULTILABEL) and more is None:
        measured = {name: NUMBER for name in document if name.startswith(("test_", "validation_"))}
        return check_entries(document, {**measured, "test_total": WHOLE, "test_loss": NUMBER}, str(path))
    found = check_entries(document, {**_RESULT, **(more or {})}, str(path))
    if not found["test_correct"] <= found["test_total"] > 0:
        raise CheckpointError(
            f"{path}: test_correct must be at most test_total, got {found['test_correct']} of {found['test_total']}"
        )
    return found


def read_environment(run_dir: PathLike) -> dict[str, Any] | None:
    """The environment of a run; None if it has not been recorded.

    Raises: as :func:`read_result`.
    """
    path = Path(run_dir) / "environment.json"
    return check_entries(read_json(path), _ENVIRONMENT, str(path)) if path.is_file() else None


def read_history(path: PathLike) -> list[Record]:
    """The records of the finished epochs; an incomplete last line, from an unfinished epoch, is ignored.

    Raises:
        CheckpointError: the file is damaged or of another version.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [files.parse_json(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as one line of JSON per epoch: {error}") from error
    return [_checked_record(record, f"{path}, line {number}") for number, record in enumerate(found, start=1)]


def _checked_record(record: Any, where: str) -> Record:
    """A record, whose metrics are an accuracy or others."""
    others = [name for name in record if name.startswith("validation_")] if isinstance(record, dict) else []
    if isinstance(record, dict) and set(others) - {"validation_loss", "validation_accuracy"}:
        return check_entries(record, {**dict.fromkeys(others, NUMBER), **_EPOCH}, where)
    needed = {"train_accuracy": SHARE, "validation_accuracy": SHARE}
    return check_entries(record, {**_EPOCH, **needed}, where)
