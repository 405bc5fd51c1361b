"""The training history: one line of JSON per epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpunet.errors import CheckpointError, OutputError
from gpunet.files import parse_json, write_text_atomic

Record = dict[str, Any]
"""epoch (from 1), step, lr, train_loss, train_accuracy, validation_loss, validation_accuracy, seconds,
images_per_second"""


class History:
    """The records of all epochs, in memory and, with a path, in a JSONL file that is complete after each epoch."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.records: list[Record] = []

    def append(self, record: Record) -> None:
        """Add the record of an epoch.

        Raises:
            OutputError: the file cannot be written.
        """
        self.records.append(record)
        if self.path is not None:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def restore(self, epochs: int) -> None:
        """Read the first `epochs` records from the file, and drop what an interrupted run wrote after them.

        Raises:
            CheckpointError: the file does not contain them.
        """
        assert self.path is not None
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()[:epochs]
            self.records = [parse_json(line) for line in lines]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {self.path}: {error}") from error
        if [isinstance(record, dict) and record.get("epoch") for record in self.records] != list(range(1, epochs + 1)):
            raise CheckpointError(f"{self.path} does not contain the records of the {epochs} epochs of the checkpoint")
        write_text_atomic(self.path, "".join(line + "\n" for line in lines))

    def column(self, name: str) -> list[Any]:
        return [record[name] for record in self.records]
