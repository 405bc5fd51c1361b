"""Tracking services: settings, the record of each epoch, result and files of a run, for MLflow, wandb or Trackio."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import logging
import os
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from gpunet.errors import ConfigError
from gpunet.files import PathLike, read_json, write_text_atomic
from gpunet.packages import pip_install
from gpunet.training.callbacks import Callback

if TYPE_CHECKING:
    from gpunet.training.history import Record
    from gpunet.training.trainer import Trainer

logger = logging.getLogger("gpunet")

PROJECT = "gpunet"
"""What MLflow calls an experiment, and the others a project, unless the service's own variable names another."""

_FILES = ("config.toml", "summary.txt", "result.json", "checkpoint.safetensors", "*.png")
"""The files of a run folder that are sent with ``files=True``."""


class Tracker(Callback):
    """Base class of what sends a training to a tracking service: settings, the record of each epoch, the best epoch.

    The step is the number of the epoch; the stages of a hybrid go on counting, and their values have the stage's name
    before them. A resumed training goes on in the service's run of before, which ``tracking-SERVICE.json`` in the run
    folder names. As a context manager, a tracker keeps that run open over several trainings, until the block ends.

    A service that cannot be used when the training starts is an error. One that fails later is a warning, and the
    training goes on without it.

    Args:
        name: the name of the run; by default that of the folder.
        folder: the run folder; by default the trainer's, if it has one.
        files: at the end, also send the figures, the checkpoint and the configuration in the folder.

    >>> with gn.training.Wandb(name="two trainings") as tracker:  # doctest: +SKIP
    ...     for trainer in (first, second):
    ...         trainer.callbacks.append(tracker)
    ...         trainer.fit()
    """

    service = ""
    """Its name for messages, and for the file, in lower case."""

    def __init__(self, *, name: str | None = None, folder: PathLike | None = None, files: bool = False) -> None:
        self.name, self.files = name, files
        self.folder = None if folder is None else Path(folder)
        self._id: str | None = None
        self._sent: dict[str, int] = {}  # by stage, the number of epochs
        self._step = 0
        self._open = self._held = self._lost = False

    # --- what a service does: any of these may raise anything --------------------------------------------------------

    def _begin(self, name: str | None, settings: Mapping[str, Any]) -> str:
        """Begin a run or, if there is an id, go on with that one; returns the id."""
        raise NotImplementedError

    def _log(self, values: Mapping[str, float], step: int) -> None:
        raise NotImplementedError

    def _save(self, file: Path) -> None:
        raise NotImplementedError

    def _end(self, finished: bool) -> None:
        raise NotImplementedError

    # --- the training ------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer) -> None:
        stage = trainer.metadata.get("stage", "")
        if not self._open and not self._lost:
            self._start(trainer)
        if trainer.epoch == 0:
            self._sent[stage] = 0
        for record in trainer.history.records:
            self._send(stage, record)

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        self._send(trainer.metadata.get("stage", ""), record)

    def on_train_end(self, trainer: Trainer) -> None:
        finished = trainer.stop or trainer.epoch >= trainer.config.epochs
        if finished and trainer.best_epoch:
            best = {"best_epoch": trainer.best_epoch, f"best_validation_{trainer.monitor.name}": trainer.best_score}
            self.log_result(best, trainer.metadata.get("stage", ""))
        if not self._held:
            self._finish(finished)

    def log_result(self, values: Mapping[str, Any], stage: str = "") -> None:
        """Send the numbers among `values` as those of the last epoch, while the run is open."""
        self._safely(lambda: self._log(_numbers(values, stage), self._step))

    def __enter__(self) -> Self:
        self._held = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._held = False
        self._finish(kind is None)

    def _start(self, trainer: Trainer) -> None:
        self.folder = self.folder or trainer.run_dir
        if trainer.epoch == 0:
            self._id, self._sent, self._step = None, {}, 0
        elif self._id is None:
            self._read()
        name = self.name or (self.folder.resolve().name if self.folder else None)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                self._id = self._begin(name, _settings(trainer))
        except Exception as error:
            raise ConfigError(
                f"{self.service} cannot be used ({_said(error)}): see to its server and settings, or train without it"
            ) from error
        self._open = True

    def _send(self, stage: str, record: Record) -> None:
        if record["epoch"] <= self._sent.get(stage, 0):
            return

        def send() -> None:
            self._log(_numbers(record, stage), self._step + 1)
            self._step += 1
            self._sent[stage] = record["epoch"]
            if self._file is not None:
                state = {"id": self._id, "step": self._step, "sent": self._sent}
                write_text_atomic(self._file, json.dumps(state) + "\n")

        self._safely(send)

    def _finish(self, finished: bool) -> None:
        if self.files and finished and self.folder is not None:
            for file in sorted(file for pattern in _FILES for file in self.folder.glob(pattern)):
                self._safely(lambda file=file: self._save(file))  # type: ignore[misc]
        self._safely(lambda: self._end(finished))
        self._open = False

    def _safely(self, call: Callable[[], None]) -> None:
        if self._lost or not self._open:
            return
        try:
            with contextlib.redirect_stdout(sys.stderr):  # some services print; the output of a command is its result
                call()
        except Exception as error:
            self._lost = True
            logger.warning("%s fails, so the rest of this run is not sent there: %s", self.service, _said(error))

    @property
    def _file(self) -> Path | None:
        return None if self.folder is None else self.folder / f"tracking-{self.service.lower()}.json"

    def _read(self) -> None:
        """Read what an interrupted run has sent; without a usable file, the earlier epochs go to a new run."""
        if self._file is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            state = read_json(self._file)
            sent = {str(stage): int(epochs) for stage, epochs in state["sent"].items()}
            self._id, self._step, self._sent = str(state["id"]), int(state["step"]), sent


class MLflow(Tracker):
    """Sends a training to MLflow: settings as parameters, records as metrics, files as artifacts.

    The server and the experiment are those of ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` (by default
    ``gpunet``). MLflow tries to reach a server that is gone for some minutes, once; ``MLFLOW_HTTP_REQUEST_MAX_RETRIES``
    shortens that.

    Args:
        uri: the server, instead of that variable.
        name, folder, files: as for :class:`Tracker`.

    Raises:
        ConfigError: mlflow is not installed; or, when the training starts, the server cannot be used.

    >>> callbacks = [gn.training.MLflow(uri="sqlite:///mlflow.db", name="first")]  # doctest: +SKIP
    >>> trainer = gn.training.Trainer(model, config, train=train, validation=validation, callbacks=callbacks)
    ... # doctest: +SKIP
    """

    service = "MLflow"

    def __init__(
        self, *, uri: str | None = None, name: str | None = None, folder: PathLike | None = None, files: bool = False
    ) -> None:
        super().__init__(name=name, folder=folder, files=files)
        _require("mlflow", self.service)
        self.uri = uri
        self._client: Any = None

    def _begin(self, name: str | None, settings: Mapping[str, Any]) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self.uri)
        if self._id is not None:
            self._client.update_run(self._id, status="RUNNING")
            return self._id
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self._client.get_experiment_by_name(project)
        experiment = self._client.create_experiment(project) if found is None else found.experiment_id
        run: str = self._client.create_run(experiment, run_name=name).info.run_id
        params = [
            Param(f"{section}.{option}", str(value))
            for section, options in settings.items()
            for option, value in options.items()
        ]
        self._client.log_batch(run, params=params)
        return run

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def _save(self, file: Path) -> None:
        self._client.log_artifact(self._id, str(file))

    def _end(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


class Wandb(Tracker):
    """Sends a training to Weights & Biases, or to whatever has its ``init``, ``log`` and ``finish``, such as Trackio.

    The project is that of ``WANDB_PROJECT`` (by default ``gpunet``); the service's own variables, such as
    ``WANDB_MODE=offline``, hold.

    Args:
        module: the package, or its name.
        name, folder, files: as for :class:`Tracker`; files need the module's ``save``.

    Raises:
        ConfigError: the package is not installed; or, when the training starts, the service cannot be used.

    >>> callbacks = [gn.training.Wandb(name="first", files=True)]  # doctest: +SKIP
    >>> gn.training.Wandb("no_such_service")
    Traceback (most recent call last):
    ...
    gpunet.errors.ConfigError: no_such_service needs the package no_such_service, which cannot be imported ...
    """

    def __init__(
        self,
        module: ModuleType | str = "wandb",
        *,
        name: str | None = None,
        folder: PathLike | None = None,
        files: bool = False,
    ) -> None:
        super().__init__(name=name, folder=folder, files=files)
        self.module: Any = _require(module, module) if isinstance(module, str) else module
        self.service = str(getattr(self.module, "__name__", "wandb"))

    def _begin(self, name: str | None, settings: Mapping[str, Any]) -> str:
        options: dict[str, Any] = {}
        if self._id is not None:
            # wandb finds a run by its id; Trackio, which has none, by its name.
            options = {"id" if _takes(self.module.init, "id") else "name": self._id, "resume": "allow"}
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        run = self.module.init(**{"project": project, "name": name, "config": dict(settings), **options})
        return str(getattr(run, "id", None) if _takes(self.module.init, "id") else getattr(run, "name", name))

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self.module.log(dict(values), step=step)

    def _save(self, file: Path) -> None:
        if hasattr(self.module, "save"):
            self.module.save(str(file))

    def _end(self, finished: bool) -> None:
        failed = {} if finished or not _takes(self.module.finish, "exit_code") else {"exit_code": 1}
        self.module.finish(**failed)


TRACKERS: dict[str, Callable[..., Tracker]] = {
    "mlflow": MLflow,
    "wandb": lambda **options: Wandb("wandb", **options),
    "trackio": lambda **options: Wandb("trackio", **options),
}
"""What makes the tracker of a service."""


def _require(module: str, service: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{service} needs the package {module}, which cannot be imported ({error}): {pip_install(module)}"
        ) from error


def _takes(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _numbers(values: Mapping[str, Any], stage: str) -> dict[str, float]:
    prefix = f"{stage}/" if stage else ""
    return {f"{prefix}{key}": float(value) for key, value in values.items() if isinstance(value, (int, float))}


def _settings(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Section -> option -> value."""
    config = trainer.metadata.get("config")
    found = tomllib.loads(config) if isinstance(config, str) else config
    return found if isinstance(found, dict) else {"training": dict(vars(trainer.config))}
