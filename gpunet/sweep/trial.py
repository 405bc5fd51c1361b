"""One trial: a training run in its own folder, whose outcome file is written last."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpunet.errors import CheckpointError, DataError, DeviceError, GpunetError, OutputError
from gpunet.experiments.config import RunConfig
from gpunet.experiments.prepare import RunData
from gpunet.experiments.run import Fit, fit, seconds_of
from gpunet.files import copy_folder, make_folder, read_json, write_text_atomic
from gpunet.sweep.table import FAILED, OK, Outcome
from gpunet.training.callbacks import Callback
from gpunet.training.hybrid import stage_folder
from gpunet.training.snapshot import LAST
from gpunet.training.trainer import BEST

if TYPE_CHECKING:
    from gpunet.training.history import Record
    from gpunet.training.trainer import Trainer

logger = logging.getLogger("gpunet")

OUTCOME = "trial.json"

FATAL = (DataError, DeviceError, OutputError)
"""Errors that would hit every other trial, too: they end the sweep, and the trial counts as not run."""


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of the trial in `folder`; None if it is not finished.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / OUTCOME
    try:
        return Outcome(**read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as the outcome of a trial: {error}; remove it to train again") from None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Record the outcome of the trial in `folder`.

    Raises:
        OutputError: it cannot be written.
    """
    make_folder(folder)
    write_text_atomic(folder / OUTCOME, json.dumps(outcome.document(), indent=2) + "\n")


def drop_checkpoints(folder: Path, *, keep_best: bool = False) -> None:
    """Remove large files that the table does not need: the weights, and the indices of the split."""
    for path in folder.glob("**/*.safetensors"):
        if not (keep_best and path == folder / BEST):
            path.unlink(missing_ok=True)
    (folder / "split.npz").unlink(missing_ok=True)


def run_trial(
    config: RunConfig,
    folder: Path,
    *,
    device: str | None,
    data: RunData,
    shared_cnn: Path | None = None,
    on_epoch: Callable[[Record], None] = lambda record: None,
) -> Outcome:
    """Train the model that `config` describes in `folder`, or resume its training, and record the outcome.

    A failure is an outcome, too: training diverged, or the settings are incompatible with each other or the data.

    Args:
        shared_cnn: for a hybrid, a folder that contains, or will contain, its trained CNN, shared by the trials of the
            sweep that differ only in what follows the CNN. The results are bit-identical to those of a trial that
            trained the CNN itself.

    Raises: an error of :data:`FATAL`.
    """
    callbacks: list[Callback] = [_Reporter(on_epoch)]

    def of_stage(stage: str) -> list[Callback]:
        return [*callbacks, _Share(shared_cnn)] if stage == "cnn" and shared_cnn is not None else callbacks

    def attempt() -> Outcome:
        if shared_cnn is not None and (shared_cnn / LAST).exists():
            copy_folder(shared_cnn, folder / stage_folder("cnn"))
        return outcome_of(fit(config, run_dir=folder, device=device, resume=True, callbacks=of_stage, data=data))

    try:
        try:
            outcome = attempt()
        except CheckpointError as error:  # from an older version, or damaged
            logger.warning("%s; the trial is trained again from the start", error)
            shutil.rmtree(folder, ignore_errors=True)
            outcome = attempt()
    except FATAL:
        raise
    except GpunetError as error:
        outcome = Outcome(FAILED, error=str(error))
    except OSError as error:
        raise OutputError(f"cannot read or write files in {folder}: {error.strerror or error}") from error
    except MemoryError:
        outcome = Outcome(FAILED, error="out of memory")
    except Exception as error:
        outcome = Outcome(FAILED, error=f"unexpected {type(error).__name__}: {error}")
    write_outcome(folder, outcome)
    return outcome


def outcome_of(found: Fit) -> Outcome:
    """The outcome of a trained model."""
    speeds = [record["images_per_second"] for record in found.records if record.get("stage", "cnn") == "cnn"]
    other = found.metric != "accuracy"
    accuracy = found.chosen.get("validation_accuracy") if other else found.validation_score
    return Outcome(
        OK,
        validation_accuracy=accuracy,
        metric=found.metric if other else "",
        score=found.validation_score if other else None,
        validation_loss=found.chosen["validation_loss"],
        chosen_epoch=found.chosen["epoch"],
        stage=found.chosen.get("stage", ""),
        epochs=len(found.records),
        parameters=found.model.parameter_count,
        seconds=seconds_of(found.records),
        images_per_second=float(np.median(speeds)),
    )


class _Reporter(Callback):
    """Reports each epoch."""

    def __init__(self, tell: Callable[[Record], None]) -> None:
        self.tell = tell

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        self.tell(record)


class _Share(Callback):
    """Copies a finished training run to a folder where other trials find it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def on_train_end(self, trainer: Trainer) -> None:
        finished = trainer.epoch >= trainer.config.epochs or trainer.stop
        if finished and trainer.run_dir is not None:
            copy_folder(trainer.run_dir, self.target)
