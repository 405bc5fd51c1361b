"""The table of a sweep: one row per trial, in the order of the declaration; the timing columns come last."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpunet.errors import ConfigError, DataError
from gpunet.experiments.records import FINITE, NUMBER, SHARE, TEXT, WHOLE
from gpunet.files import PathLike, write_text_atomic
from gpunet.training.metrics import METRICS

OK, FAILED = "ok", "failed"
TIMING = ("seconds", "images_per_second")
"""The columns that differ from one run of a sweep to the next."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial. Accuracy and loss are those on the validation images, at the chosen epoch.

    Raises:
        ConfigError: a field has the wrong type or value, or a finished trial has no accuracy.

    >>> from gpunet.sweep.table import Outcome
    >>> Outcome("ok", validation_accuracy=0.9).ok, Outcome("failed", error="the loss is not finite").ok
    (True, False)
    """

    status: str
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    chosen_epoch: int | None = None
    stage: str = ""
    """For a hybrid, the stage whose weights were chosen."""
    epochs: int | None = None
    parameters: int | None = None
    error: str = ""
    seconds: float | None = None
    images_per_second: float | None = None
    metric: str = ""
    """The monitored metric, if that is not the accuracy."""
    score: float | None = None
    """Its value at the chosen epoch."""

    def __post_init__(self) -> None:
        if self.status not in (OK, FAILED):
            raise ConfigError(f"status must be {OK} or {FAILED}, got {self.status!r:.80}")
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not kind.fits(value) and not (value is None and kind.optional):
                raise ConfigError(f"{name} must be {kind.words}, got {value!r:.80}")
        if self.metric and self.metric not in METRICS:
            raise ConfigError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r:.80}")
        if self.ok and self.value is None:
            raise ConfigError(f"a finished trial must have a {'score' if self.metric else 'validation_accuracy'}")

    @property
    def ok(self) -> bool:
        return self.status == OK

    @property
    def value(self) -> float | None:
        """The monitored metric: the validation accuracy, or another score."""
        return self.score if self.metric else self.validation_accuracy

    def document(self) -> dict[str, Any]:
        """The fields by name, those of another metric only if there is one."""
        return {name: getattr(self, name) for name in (_ALL if self.metric else _OUTCOME)}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    >>> from gpunet.sweep import Row
    >>> from gpunet.sweep.table import Outcome
    >>> Row(1, {"dropout": "0.2"}, seed=0, outcome=Outcome("ok", validation_accuracy=0.9)).outcome.ok
    True
    """

    trial: int
    """From 1, in the order of the declaration."""
    values: dict[str, str]
    """The label of the trial's choice on each axis."""
    seed: int
    outcome: Outcome


_KINDS = {
    "validation_accuracy": SHARE.or_none,
    "validation_loss": NUMBER.or_none,
    "chosen_epoch": WHOLE.or_none,
    "stage": TEXT,
    "epochs": WHOLE.or_none,
    "parameters": WHOLE.or_none,
    "error": TEXT,
    "seconds": FINITE.or_none,
    "images_per_second": FINITE.or_none,
    "metric": TEXT,
    "score": NUMBER.or_none,
}
_ALL = [field.name for field in fields(Outcome)]
_SCORED = ("metric", "score")
_OUTCOME = [name for name in _ALL if name not in _SCORED]
_WHOLE = ("chosen_epoch", "epochs", "parameters")
_TEXT = ("status", "stage", "error", "metric")


def write_table(path: PathLike, axes: Sequence[str], rows: Sequence[Row]) -> None:
    """Write `rows` as a CSV file: trial, the axes, seed, and the fields of :class:`Outcome`.

    The columns metric and score are there only if a trial has them.

    Raises:
        OutputError: it cannot be written.

    >>> from pathlib import Path
    >>> from gpunet.sweep import Row, read_table, write_table
    >>> from gpunet.sweep.table import Outcome
    >>> rows = [Row(1, {"dropout": "0.2"}, seed=0, outcome=Outcome("ok", validation_accuracy=0.9))]
    >>> write_table(Path("table.csv"), ["dropout"], rows)
    >>> read_table(Path("table.csv")) == (["dropout"], rows)
    True
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = _ALL if any(row.outcome.metric for row in rows) else _OUTCOME
    writer.writerow(["trial", *axes, "seed", *names])
    for row in rows:
        outcome = [getattr(row.outcome, name) for name in names]
        writer.writerow([row.trial, *(row.values[axis] for axis in axes), row.seed, *map(_cell, outcome)])
    write_text_atomic(path, buffer.getvalue())


def read_table(path: PathLike) -> tuple[list[str], list[Row]]:
    """(names of the axes, rows) of a table that :func:`write_table` wrote.

    Raises:
        DataError: it cannot be read or is not such a table.

    >>> from pathlib import Path
    >>> from gpunet.sweep import Row, read_table, write_table
    >>> from gpunet.sweep.table import Outcome
    >>> write_table(Path("table.csv"), ["dropout"], [Row(1, {"dropout": "0.2"}, 0, Outcome("failed"))])
    >>> axes, rows = read_table(Path("table.csv"))
    >>> axes, rows[0].values, rows[0].outcome.status
    (['dropout'], {'dropout': '0.2'}, 'failed')
    """
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file)) or [[]]
        names = _ALL if header[-2:] == list(_SCORED) else _OUTCOME
        axes = header[1 : len(header) - len(names) - 1]
        if header != ["trial", *axes, "seed", *names]:
            raise DataError(f"{path} is not the table of a sweep: its first line is {', '.join(header) or 'missing'}")
        return axes, [_row(dict(zip(header, line, strict=True)), axes) for line in lines]
    except OSError as error:
        raise DataError(f"cannot read the table {path}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not the table of a sweep: {error}") from error


def _row(cells: dict[str, str], axes: Sequence[str]) -> Row:
    outcome: dict[str, Any] = {}
    for name in _ALL:
        text = cells.get(name, "")
        if name in _TEXT:
            outcome[name] = text
        elif text:
            outcome[name] = int(text) if name in _WHOLE else float(text)
    return Row(int(cells["trial"]), {axis: cells[axis] for axis in axes}, int(cells["seed"]), Outcome(**outcome))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return " ".join(value.split())
    return repr(value)
