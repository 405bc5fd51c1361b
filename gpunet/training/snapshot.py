"""The state of an unfinished training, as ``last.safetensors`` in its run folder holds it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.errors import CheckpointError, OtherTrainingError
from gpunet.files import PathLike
from gpunet.training.checkpoint import load_checkpoint, save_checkpoint, under
from gpunet.training.config import TrainingConfig
from gpunet.training.history import Record, entries

logger = logging.getLogger("gpunet")

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
"""In a run folder: the last snapshot, and the one before, which is used if the last one is damaged."""


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to go on with a training, with the same bits."""

    tensors: Mapping[str, np.ndarray] = field(repr=False)
    """``model/``, ``best/``, ``optimizer/``, ``average/`` and, within an epoch, ``epoch/``: its counters and sums."""
    epoch: int
    """Number of finished epochs."""
    epoch_steps: int
    """Number of finished steps of the epoch after these."""
    epoch_seconds: float
    """Time spent on that epoch so far."""
    epochs: int
    """Number of epochs that were configured."""
    stop: bool
    """Whether a callback has ended the training."""
    best_epoch: int
    """The epoch of the weights ``best/``; 0: none yet."""
    best_score: float | None
    """Of the monitored metric; None: none yet."""
    schedule: Mapping[str, Any]
    callbacks: list[Any]
    """[name, state] of each callback that has a state."""
    records: list[Record]
    """Of all finished epochs."""
    identity: Mapping[str, Any]
    """What must be the same when the training is resumed, by name: data and settings."""
    about: Mapping[str, Any]
    """What describes the model, as in every checkpoint."""

    def write(self, run_dir: PathLike) -> None:
        """Write the snapshot as the last one in `run_dir`; the last one becomes the previous one.

        Raises:
            OutputError: it cannot be written; one of the older ones is left.
        """
        run_dir = Path(run_dir)
        facts = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("tensors", "about")}
        save_checkpoint(run_dir / LAST, self.tensors, {**self.about, _KEY: facts}, keep=run_dir / PREVIOUS)

    def check_identity(self, identity: Mapping[str, Any], run_dir: Path) -> None:
        """Check that the training that goes on has the `identity` of the one in `run_dir` that this is a snapshot of.

        Raises:
            OtherTrainingError: something differs, or only one of them has it; the message names it.
        """
        here: Mapping[str, Any] = json.loads(json.dumps(identity))  # tuples become lists, as in the file
        differences = [name for name in {**here, **self.identity} if self._value(name) != here.get(name, _ABSENT)]
        if differences:
            texts = []
            for name in differences:
                before, now = self._value(name), here.get(name, _ABSENT)
                texts.append(name if len(f"{before}{now}") > 60 else f"{name} ({before}, now {now})")
            raise OtherTrainingError(
                f"the training in {run_dir} was begun with other {', '.join(texts)}: resume it with the same, or start "
                "a new run"
            )

    def explain_epochs(self, config: TrainingConfig, step: int, rates: Sequence[float]) -> None:
        """Say what a resume with the epochs of `config` cannot do, or changes.

        Args:
            rates: the learning rate after `step` steps, by the schedule of the epochs before and by that of `config`.
        """
        if self.epoch == config.epochs:
            return
        if self.stop:
            logger.warning(
                "training was stopped after epoch %d, before the %d that it may have, and stays so: a new run without "
                "early stopping trains on",
                self.epoch,
                config.epochs,
            )
        elif rates[0] != rates[1]:
            logger.warning(
                "the schedule %s is stretched from %d to %d epochs: the learning rate of step %d is %.3g, not %.3g",
                config.schedule,
                self.epochs,
                config.epochs,
                step + 1,
                rates[1],
                rates[0],
            )

    def _value(self, name: str) -> Any:
        return self.identity.get(name, _ABSENT)


_ABSENT = "none"


def read_snapshot(run_dir: PathLike) -> Snapshot | None:
    """The last snapshot in `run_dir`, or the previous one with a warning if that is damaged; None if there is none.

    Raises:
        CheckpointError: all are damaged or of another version of gpunet.
    """
    run_dir = Path(run_dir)
    problem: CheckpointError | None = None
    for name in (LAST, PREVIOUS):
        if not (run_dir / name).exists():
            continue
        try:
            found = _read(run_dir / name)
        except CheckpointError as error:
            problem = problem or error
            continue
        if problem is not None:
            logger.warning("%s; going back to %s, after epoch %d", problem, name, found.epoch)
        return found
    if problem is not None:
        raise CheckpointError(f"{problem}; the run cannot be resumed, start it again")
    return None


_TYPES: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "epoch_steps": int,
    "epoch_seconds": (int, float),
    "epochs": int,
    "stop": bool,
    "best_epoch": int,
    "best_score": (int, float, type(None)),
    "schedule": dict,
    "callbacks": list,
    "records": list,
    "identity": dict,
}
_KEY = "training"
"""The entry of a checkpoint's metadata with all of these; beside it is what every checkpoint has."""


def _read(path: Path) -> Snapshot:
    tensors, about = load_checkpoint(path)
    facts = about.pop(_KEY, None)
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is not the state of a training of this version: it has no entry {_KEY}")
    if "best_accuracy" in facts:  # of a version that knew no other metric
        facts["best_score"] = facts.pop("best_accuracy")
    for name, expected in _TYPES.items():
        found = facts.get(name, _ABSENT)
        if not isinstance(found, expected) or (isinstance(found, bool) and expected is not bool):
            raise CheckpointError(f"{path} is not the state of a training of this version: its {name} is {found!r:.40}")
    snapshot = Snapshot(tensors, about=about, **{name: facts[name] for name in _TYPES})
    problem = _inconsistency(snapshot)
    if problem:
        raise CheckpointError(f"{path} is not the state of a training of this version: {problem}")
    ordered = [{name: record[name] for name in _entries(snapshot)} | record for record in snapshot.records]
    return replace(snapshot, records=ordered)


def _entries(snapshot: Snapshot) -> tuple[str, ...]:
    return entries(snapshot.identity.get("metrics", ("accuracy",)))


def _inconsistency(snapshot: Snapshot) -> str | None:
    """What does not fit together in the snapshot of an undamaged file: it is of another version, or was edited."""
    records = snapshot.records
    metrics = snapshot.identity.get("metrics", [])
    if not isinstance(metrics, list) or not all(isinstance(name, str) for name in metrics):
        return f"its metrics are {metrics!r:.40}"
    names = _entries(snapshot)
    if not all(isinstance(record, dict) and all(_is_number(record.get(name)) for name in names) for record in records):
        return f"a record of an epoch lacks a number of {', '.join(names)}"
    if [record["epoch"] for record in records] != list(range(1, snapshot.epoch + 1)):
        return f"its records are not those of the epochs 1 to {snapshot.epoch}"
    if not 0 <= snapshot.best_epoch <= snapshot.epoch or min(snapshot.epoch_steps, snapshot.epochs) < 0:
        return f"its best epoch is {snapshot.best_epoch} of {snapshot.epoch}"
    if snapshot.best_epoch and under("best", snapshot.tensors).keys() != under("model", snapshot.tensors).keys():
        return "it has no weights of its best epoch"
    for entry in snapshot.callbacks:
        if not (
            isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], dict)
        ):
            return "the state of a callback is not a name with a dictionary"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
