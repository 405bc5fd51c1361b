"""One run, from its configuration to its folder: training, one evaluation on the test images, and figures."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data.dataset import Dataset
from gpunet.data.loader import Loader
from gpunet.devices import get_backend
from gpunet.errors import ConfigError
from gpunet.experiments.config import RunConfig, to_dict, to_toml
from gpunet.experiments.inference import (
    EvaluationResult,
    Prediction,
    evaluate,
    measured,
    predict,
    predicted,
)
from gpunet.experiments.prepare import RunData, prepare
from gpunet.experiments.recipes import check_model, fit_recipe, warn_of_majority, warn_of_mean
from gpunet.experiments.records import RESULT
from gpunet.experiments.result import RunResult
from gpunet.experiments.saved import description
from gpunet.files import PathLike, lock_folder, remove_temporaries, write_bytes_atomic, write_text_atomic
from gpunet.machine import peak_memory
from gpunet.models import Hybrid, HybridConfig, create
from gpunet.nn import Sequential, summary
from gpunet.parallel.communicator import Communicator, Serial, first_then_others, from_first
from gpunet.parallel.launch import device_of_a_rank
from gpunet.parallel.shards import shard_count
from gpunet.report.run_figures import plot_run, plot_targets
from gpunet.tasks import CLASSIFICATION
from gpunet.training import Callback, Progress, TensorBoard, Trainer, fit_hybrid
from gpunet.training.checkpoint import architecture, prefixed, save_checkpoint
from gpunet.training.description import scaling_tensors, target_tensors
from gpunet.training.evaluation import evaluate as evaluate_model
from gpunet.training.evaluation import with_mirror_images
from gpunet.training.history import Record
from gpunet.training.objective import DEFAULT_LOSSES
from gpunet.training.tensorboard import require_tensorboardx
from gpunet.training.tracking import TRACKERS
from gpunet.training.trainer import BEST, METRICS

logger = logging.getLogger("gpunet")

__all__ = ["EvaluationResult", "Fit", "Prediction", "RunResult", "evaluate", "fit", "predict", "train"]

PREDICTIONS = "test_predictions.npz"


@dataclass(frozen=True)
class Fit:
    """A trained model and its data; the test images have not been used."""

    config: RunConfig
    model: Sequential
    records: list[Record]
    """Of all epochs, over all stages of a hybrid."""
    validation_score: float
    """The monitored metric of the model's current weights, those of the epoch `chosen`."""
    metric: str
    """Its name."""
    chosen: Record
    """The record of the epoch that these weights come from."""
    data: RunData
    backend: Backend

    def loader(self, part: str) -> Loader:
        """The images of `part`, not augmented, on the device."""
        return self.data.loader(part, self.backend, self.config.training.dtype)


def train(
    config: RunConfig,
    *,
    run_dir: PathLike,
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
    trackers: Sequence[str] = (),
    track_files: bool = False,
    checkpoint_minutes: float = 5.0,
    given: Collection[str] | None = None,
    on_result: Callable[[RunResult], None] = lambda result: None,
    communicator: Communicator | None = None,
) -> RunResult:
    """Train the model that `config` describes in the folder `run_dir`, and evaluate it on the test images.

    The folder gets the files of :func:`fit`, ``result.json``, ``test_predictions.npz`` (uint16 (n,): labels,
    predictions and, if available, tta_predictions; of a regression float64 (n, K), of labels uint8 (n, K)) and the
    figures. With `resume`, an interrupted run is resumed; the
    result is bit-identical to that of an uninterrupted run. With `tensorboard`, TensorBoard events are written as well
    (for a hybrid, in the folder of each stage). `trackers` are names in :data:`~gpunet.training.tracking.TRACKERS`,
    whose services get settings, records and result and, with `track_files`, figures and checkpoint. `on_result` is
    called with the result once it is saved, before the figures are drawn; a figure that cannot be drawn is a warning.
    The ranks of a `communicator` train together: all call this with the same arguments, and rank 0 writes.

    Raises: as :func:`fit`.

    >>> from gpunet.experiments.config import merge
    >>> from gpunet.experiments.run import train
    >>> images = np.zeros((40, 8, 8), np.uint8)
    >>> images[:20, :4] = images[20:, 4:] = 255
    >>> np.savez("halves.npz", X=images, y=["above"] * 20 + ["below"] * 20)
    >>> config = merge("mlp", "baseline", overrides={"data": "halves.npz", "batch_size": 8, "epochs": 10})
    >>> result = train(config, run_dir="run", progress=False)
    >>> result.test_correct, result.test_total  # a fifth of the images was split off
    (8, 8)
    """
    if tensorboard:
        require_tensorboardx()  # before the data are read
    tracking = [TRACKERS[name](folder=run_dir, files=track_files) for name in trackers]
    ranks = communicator or Serial()
    if ranks.rank:
        progress, tensorboard, tracking = False, False, []
    elif importlib.util.find_spec("matplotlib") is None:
        logger.warning("matplotlib is not installed, so no figures will be drawn: pip install matplotlib")

    def callbacks(stage: str) -> list[Callback]:
        shown: list[Callback] = [Progress(title=stage)] if progress else []
        return [*shown, *([TensorBoard()] if tensorboard else []), *tracking]

    run_dir = Path(run_dir)
    with _locked(run_dir, ranks), contextlib.ExitStack() as services:
        for tracker in tracking:
            services.enter_context(tracker)
        found = _fit(config, run_dir, device, resume, callbacks, None, checkpoint_minutes, given, ranks)
        result = from_first(ranks, lambda: _finish(found, run_dir, on_result))
        for tracker in tracking:
            tracker.log_result(result.document())
        return result


def _finish(found: Fit, run_dir: Path, on_result: Callable[[RunResult], None]) -> RunResult:
    """Evaluate the model on the test images, save the result and draw the figures."""
    config = found.config
    records, data = found.records, found.data
    loader = found.loader("test")
    test = evaluate_model(found.model, loader, **measured(config), keep_probabilities=True)
    predictions = {"labels": data.test.labels, "predictions": predicted(test)}
    if config.data.mirrors and data.test.task == CLASSIFICATION:
        assert test.probabilities is not None
        predictions["tta_predictions"] = with_mirror_images(found.model, loader, test.probabilities).argmax(1)
    _save_predictions(run_dir / PREDICTIONS, predictions)
    # for a hybrid, only the stage that trains the CNN; other models have no stages
    speeds = [record["images_per_second"] for record in records if record.get("stage", "cnn") == "cnn"]
    result = RunResult(
        kind=config.kind,
        run_dir=run_dir,
        test_correct=test.correct,
        test_total=test.total,
        test_loss=test.loss,
        validation_score=found.validation_score,
        epochs=len(records),
        seconds=seconds_of(records),
        images_per_second=float(np.median(speeds)),
        device=found.backend.device,
        seed=config.training.seed,
        parameters=found.model.parameter_count,
        tta_correct=(
            int((predictions["tta_predictions"] == data.test.labels).sum())
            if "tta_predictions" in predictions
            else None
        ),
        task=data.test.task,
        metric=found.metric,
        test_scores={} if data.test.task == CLASSIFICATION and found.metric == "accuracy" else test.scores,
    )
    document = {**result.document(), "peak_memory_bytes": peak_memory()}
    write_text_atomic(run_dir / RESULT, json.dumps(document, indent=2) + "\n")
    on_result(result)
    if data.test.task == CLASSIFICATION:
        assert test.probabilities is not None
        warn_of_majority(data.test, test.correct)
        training = config.training
        smoothed = training.label_smoothing, training.class_weights
        plot_run(run_dir, found.model, records, data.test, test.probabilities, data.scaling, *smoothed)
    else:
        warn_of_mean(test.scores)
        plot_targets(run_dir, records, data.test, predictions["predictions"])
    return result


def fit(
    config: RunConfig,
    *,
    run_dir: PathLike,
    device: str | None = None,
    resume: bool = False,
    callbacks: Callable[[str], Sequence[Callback]] = lambda stage: (),
    data: RunData | None = None,
    checkpoint_minutes: float = 5.0,
    given: Collection[str] | None = None,
    communicator: Communicator | None = None,
) -> Fit:
    """Train the model that `config` describes in the folder `run_dir`; the test images are not used.

    The folder gets ``config.toml``, ``environment.json``, ``split.npz``, ``metrics.jsonl``, ``checkpoint.safetensors``
    (best by validation), ``last.safetensors`` and ``summary.txt``.

    Args:
        callbacks: returns those for a stage of a hybrid; for other models it is called with ``""``.
        data: the result of :func:`prepare` for ``config.data``, if available.
        checkpoint_minutes: time after which the state is also saved within an epoch; 0: only after each epoch.
        given: unless None, the settings of a new run that are not among these options are those of
            :func:`~gpunet.experiments.recipes.recipe`, for data other than Fashion-MNIST.
        communicator: the ranks that train together; all call this with the same arguments, and rank 0 writes.

    Raises:
        OutputError: another process is training in `run_dir`, or a file cannot be written.
        OtherTrainingError: the run to resume is one with other data or settings; nothing was changed.
        Interrupted: a signal arrived; the state is saved.
        GpunetError: see :mod:`gpunet.errors`.

    >>> from gpunet.experiments.config import merge
    >>> from gpunet.experiments.run import fit
    >>> np.savez("pets.npz", X=np.zeros((40, 8, 8), np.uint8), y=["cat", "dog"] * 20)
    >>> config = merge("mlp", "baseline", overrides={"data": "pets.npz", "hidden": [8], "epochs": 2})
    >>> found = fit(config, run_dir="run")
    >>> [record["epoch"] for record in found.records], gn.load("run").class_names
    ([1, 2], ('cat', 'dog'))
    """
    run_dir, ranks = Path(run_dir), communicator or Serial()
    with _locked(run_dir, ranks):
        return _fit(config, run_dir, device, resume, callbacks, data, checkpoint_minutes, given, ranks)


@contextlib.contextmanager
def _locked(run_dir: Path, ranks: Communicator) -> Iterator[None]:
    message = f"another process is training in {run_dir}: wait for it, or train in another folder"
    with contextlib.ExitStack() as stack:
        from_first(ranks, lambda: _enter(stack, lock_folder(run_dir, message)))
        yield


def _enter(stack: contextlib.ExitStack, context: contextlib.AbstractContextManager[Any]) -> None:
    stack.enter_context(context)  # whose value is of this process alone


def _fit(
    config: RunConfig,
    run_dir: Path,
    device: str | None,
    resume: bool,
    callbacks: Callable[[str], Sequence[Callback]],
    data: RunData | None,
    checkpoint_minutes: float,
    given: Collection[str] | None,
    ranks: Communicator,
) -> Fit:
    _check_refit(config)
    backend = get_backend(device_of_a_rank(device, ranks))
    wanted = config.data
    data = data or first_then_others(ranks, lambda: prepare(wanted))
    config = replace(config, data=replace(config.data, value_range=data.config.value_range))
    check_model(config, data)
    if given is not None and not resume:
        config, data = fit_recipe(config, data, given)
    dataset = data.split.train
    config = _with_shards(config, len(dataset), 1 if resume else ranks.size)
    if ranks.rank == 0:
        remove_temporaries(run_dir)
    toml = to_toml(config)
    model = create(config.model, dataset.image_shape, dataset.classes)
    dtype, seed = config.training.dtype, config.training.seed
    begin = [_Begin(run_dir, toml, backend, data, summary(model, dataset.image_shape))] if ranks.rank == 0 else []
    loaders: dict[str, Any] = {
        "train": data.loader("train", backend, dtype, config.data),
        "validation": data.loader("validation", backend, dtype),
    }
    shared: dict[str, Any] = {
        "metadata": description(config, toml, dataset),
        "tensors": scaling_tensors(data.scaling),
        "checkpoint_minutes": checkpoint_minutes,
        "communicator": ranks,
        "loss": None if config.training.loss != "auto" else DEFAULT_LOSSES[config.data.task],
        "progress": False,  # unless the callbacks show it
    }

    records: list[Record]
    if isinstance(config.model, HybridConfig):
        assert config.hybrid is not None
        hybrid = fit_hybrid(
            config.model,
            config.training,
            config.hybrid,
            **loaders,
            **shared,
            classes=dataset.classes,
            run_dir=run_dir,
            callbacks=lambda stage: [*begin, *callbacks(stage)],
            identity=lambda stage: _identity((config.cnn() if stage == "cnn" else None) or config, dataset),
            resume=resume,
        )
        model, records, best, metric = hybrid.hybrid, hybrid.records, hybrid.validation_score, hybrid.metric
        chosen = next(row for row in records if (row["stage"], row["epoch"]) == (hybrid.stage, hybrid.epoch))
        about = {**shared["metadata"], f"validation_{metric}": best, "from_stage": hybrid.stage}
        if ranks.rank == 0:
            _save_hybrid(run_dir, model, about, {**shared["tensors"], **target_tensors(model)})
            write_text_atomic(run_dir / METRICS, "".join(json.dumps(record) + "\n" for record in records))
    else:
        model.initialize(seed, device=backend, dtype=dtype)
        trainer = Trainer(
            model,
            config.training,
            **loaders,
            **shared,
            run_dir=run_dir,
            callbacks=[*begin, *callbacks("")],
            identity=_identity(config, dataset),
        )
        if resume:
            trainer.resume()
        records = trainer.fit().records
        chosen = records[trainer.best_epoch - 1]
        metric = trainer.monitor.name
        best = chosen[f"validation_{metric}"]
    return Fit(config, model, records, best, metric, chosen, data, backend)


def _with_shards(config: RunConfig, images: int, ranks: int) -> RunConfig:
    """`config` with the number of shards, so that the run has the same one when any number of ranks resumes it."""
    training = config.training
    count = shard_count(training.shards, min(training.batch_size, images), ranks)
    return replace(config, training=replace(training, shards=count))


def _identity(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """What must be the same when a run is resumed, beside the data and the options of training."""
    return {"class names": list(dataset.class_names), **to_dict(config)["model"]}


def seconds_of(records: Sequence[Record]) -> float:
    """The time of all epochs, validation included."""
    return round(sum(float(record["seconds"]) for record in records), 1)


def _check_refit(config: RunConfig) -> None:
    if not config.data.refit:
        return
    training = config.training
    if training.keep != "last":
        raise ConfigError("refit leaves no images for choosing the epoch: add --keep last")
    if training.schedule == "plateau" or training.early_stopping:
        raise ConfigError(
            "refit leaves no images for schedule plateau and early_stopping to monitor: use another schedule, and "
            "early_stopping 0"
        )


def _save_predictions(path: Path, predictions: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    kept = {
        name: found.astype(np.uint16 if found.ndim == 1 else labels.dtype)
        for labels in [predictions["labels"]]
        for name, found in predictions.items()
    }
    np.savez_compressed(buffer, **kept)  # type: ignore[arg-type]
    write_bytes_atomic(path, buffer.getvalue())


class _Begin(Callback):
    """Writes the files that describe a run when its training starts: after all checks, so that none is overwritten
    by a run that is then refused. Removes an earlier result before the model changes.
    """

    def __init__(self, run_dir: Path, toml: str, backend: Backend, data: RunData, table: str) -> None:
        self.run_dir, self.toml, self.table = run_dir, toml, table
        self.backend, self.data = backend, data
        self._begun = False

    def on_train_start(self, trainer: Trainer) -> None:
        if not self._begun:  # a hybrid has several stages
            self._begun = True
            write_text_atomic(self.run_dir / "config.toml", self.toml)
            write_text_atomic(self.run_dir / "environment.json", self._environment())
            write_text_atomic(self.run_dir / "summary.txt", self.table + "\n")
            self.data.save_indices(self.run_dir / "split.npz")

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        for name in (RESULT, PREDICTIONS):
            with contextlib.suppress(FileNotFoundError):
                (self.run_dir / name).unlink()

    def _environment(self) -> str:
        """The environment as JSON; if the run was begun in another one, that is kept under ``before``."""
        here = _environment(self.backend, self.data)
        try:
            found = json.loads((self.run_dir / "environment.json").read_text(encoding="utf-8"))
            before = found.pop("before", [])
            if found != here:
                before = [*before, found]
        except (OSError, ValueError, AttributeError, TypeError):  # there is none, or it is damaged
            before = []
        return json.dumps({**here, **({"before": before} if before else {})}, indent=2) + "\n"


def _environment(backend: Backend, data: RunData) -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("numpy", "numba", "scipy")
    return {
        "gpunet": _own_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "device": backend.device,
        "split_sha256": data.split.digest(),
        "images": {name: len(data.part(name)) for name in ("train", "validation", "test")},
    }


def _own_version() -> str:
    from gpunet import __version__

    return __version__


def _save_hybrid(run_dir: Path, hybrid: Hybrid, metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    if hybrid.flat is None:
        raise ConfigError("the hybrid has no arrays")
    everything = {**prefixed("model", hybrid.flat.state_dict()), **tensors}
    save_checkpoint(run_dir / BEST, everything, {**metadata, "architecture": architecture(hybrid.flat)})
