"""The training history: one record per epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from gpunet.errors import OutputError
from gpunet.files import PathLike, write_text_atomic

Record = dict[str, Any]
"""epoch (from 1), step, lr, train_loss, validation_loss, validation_<name> of each metric, seconds, images_per_second;
with an accuracy, also train_accuracy"""


def entries(metrics: Sequence[str] = ("accuracy",)) -> tuple[str, ...]:
    """The entries of a record with these metrics, in order; all are numbers."""
    accuracy = ("train_accuracy",) if "accuracy" in metrics else ()
    measured = (f"validation_{name}" for name in metrics)
    return "epoch", "step", "lr", "train_loss", *accuracy, "validation_loss", *measured, "seconds", "images_per_second"


class History(Sequence[Record]):
    """The records of all epochs, in memory and, with a path, as a file with a line of JSON per epoch.

    A sequence of the records: ``pandas.DataFrame(history)`` has a row for each epoch.

    The file is derived: a training resumes from the records in its last checkpoint, and writes the file anew.

    >>> history = gn.training.History()
    >>> history.append({"epoch": 1, "train_loss": 0.7})
    >>> history.append({"epoch": 2, "train_loss": 0.4})
    >>> history.column("train_loss")
    [0.7, 0.4]
    """

    def __init__(self, path: PathLike | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.records: list[Record] = []

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        last = f", the last one {self.records[-1]}" if self.records else ""
        return f"History of {len(self)} epochs{last}"

    def append(self, record: Record) -> None:
        """Add the record of an epoch, in memory."""
        self.records.append(record)

    def append_to_file(self) -> None:
        """Add the last record to the file, which :meth:`write` has begun.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.path is not None:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_line(self.records[-1]))
            except OSError as error:
                raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def write(self) -> None:
        """Write all records to the file, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.path is not None:
            write_text_atomic(self.path, "".join(map(_line, self.records)))

    def column(self, name: str) -> list[Any]:
        return [record[name] for record in self.records]


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"
