"""One run, from its configuration to its folder: training, one evaluation on the test images, and figures."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data.loader import Loader
from gpunet.devices import get_backend
from gpunet.errors import ConfigError
from gpunet.experiments.config import RunConfig, to_toml
from gpunet.experiments.inference import (
    EvaluationResult,
    Prediction,
    description,
    evaluate,
    predict,
    scaling_tensors,
)
from gpunet.experiments.prepare import RunData, prepare
from gpunet.files import make_folder, write_bytes_atomic, write_text_atomic
from gpunet.machine import peak_memory
from gpunet.models import Hybrid, HybridConfig, create
from gpunet.nn import Sequential, summary
from gpunet.report.run_figures import plot_run
from gpunet.training import Callback, Progress, TensorBoard, Trainer, fit_hybrid
from gpunet.training.checkpoint import prefixed, save_checkpoint
from gpunet.training.evaluation import evaluate as evaluate_model
from gpunet.training.evaluation import with_mirror_images
from gpunet.training.history import Record
from gpunet.training.tensorboard import require_tensorboardx
from gpunet.training.trainer import BEST, METRICS, architecture

__all__ = ["EvaluationResult", "Fit", "Prediction", "RunResult", "evaluate", "fit", "predict", "train"]

RESULT, PREDICTIONS = "result.json", "test_predictions.npz"


@dataclass(frozen=True)
class RunResult:
    """The result of a run. Accuracies are fractions; the test images were evaluated once, at the end."""

    kind: str
    run_dir: Path
    test_correct: int
    test_total: int
    test_loss: float
    validation_accuracy: float
    epochs: int
    """Number of epochs run, over all stages of a hybrid."""
    seconds: float
    """Time of all epochs, validation and epochs before a resume included."""
    images_per_second: float
    """Training throughput: median over the epochs (for a hybrid, those of its CNN)."""
    device: str
    seed: int
    parameters: int
    tta_correct: int | None = None
    """With test-time augmentation: probabilities averaged over each image and its mirror image; None unless trained on
    mirrored images."""

    @property
    def test_accuracy(self) -> float:
        return self.test_correct / self.test_total

    @property
    def tta_accuracy(self) -> float | None:
        return None if self.tta_correct is None else self.tta_correct / self.test_total


@dataclass(frozen=True)
class Fit:
    """A trained model and its data; the test images have not been used."""

    config: RunConfig
    model: Sequential
    records: list[Record]
    """Of all epochs, over all stages of a hybrid."""
    validation_accuracy: float
    """Of the model's current weights, those of the epoch `chosen`."""
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
    run_dir: Path,
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
    on_result: Callable[[RunResult], None] = lambda result: None,
) -> RunResult:
    """Train the model that `config` describes in the folder `run_dir`, and evaluate it on the test images.

    The folder gets the files of :func:`fit`, ``result.json``, ``test_predictions.npz`` (uint16 (n,): labels,
    predictions and, if available, tta_predictions) and the figures. With `resume`, an interrupted run is resumed; the
    result is bit-identical to that of an uninterrupted run. With `tensorboard`, TensorBoard events are written as well
    (for a hybrid, in the folder of each stage). `on_result` is called with the result once it is saved, before the
    figures are drawn; a figure that cannot be drawn is a warning.

    Raises: GpunetError and its subclasses; see :mod:`gpunet.errors`.
    """
    if tensorboard:
        require_tensorboardx()  # before the data are read

    def callbacks(stage: str) -> list[Callback]:
        shown: list[Callback] = [Progress(title=stage)] if progress else []
        return [*shown, TensorBoard()] if tensorboard else shown

    found = fit(config, run_dir=run_dir, device=device, resume=resume, callbacks=callbacks)
    records, data = found.records, found.data
    loader = found.loader("test")
    test = evaluate_model(found.model, loader, keep_probabilities=True)
    assert test.probabilities is not None
    predictions = {"labels": data.test.labels, "predictions": test.probabilities.argmax(1)}
    if config.data.mirrors:
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
        validation_accuracy=found.validation_accuracy,
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
    )
    document = {
        **asdict(result),
        "run_dir": str(run_dir),
        "test_accuracy": result.test_accuracy,
        "peak_memory_bytes": peak_memory(),
    }
    write_text_atomic(run_dir / RESULT, json.dumps(document, indent=2) + "\n")
    on_result(result)
    plot_run(run_dir, found.model, records, data.test, test.probabilities, data.scaling)
    return result


def fit(
    config: RunConfig,
    *,
    run_dir: Path,
    device: str | None = None,
    resume: bool = False,
    callbacks: Callable[[str], Sequence[Callback]] = lambda stage: (),
    data: RunData | None = None,
) -> Fit:
    """Train the model that `config` describes in the folder `run_dir`; the test images are not used.

    The folder gets ``config.toml``, ``environment.json``, ``split.npz``, ``metrics.jsonl``, ``checkpoint.safetensors``
    (best by validation), ``last.safetensors`` and ``summary.txt``.

    Args:
        callbacks: returns those for a stage of a hybrid; for other models it is called with ``""``.
        data: the result of :func:`prepare` for ``config.data``, if available.

    Raises: as :func:`train`.
    """
    _check_refit(config)
    backend = get_backend(device)
    data = data or prepare(config.data)
    toml = to_toml(config)
    model = create(config.model, data.split.train.image_shape, data.split.train.classes)
    dtype, seed = config.training.dtype, config.training.seed
    _start_folder(run_dir, toml, backend, data, summary(model, data.split.train.image_shape))

    loaders = {
        "train": data.loader("train", backend, dtype, config.data),
        "validation": data.loader("validation", backend, dtype),
    }
    metadata, tensors = description(config, toml, data.split.train), scaling_tensors(data.scaling)
    weights = None
    if config.training.class_weights == "balanced":
        weights = backend.asarray(data.class_weights(), dtype)

    records: list[Record]
    if isinstance(config.model, HybridConfig):
        assert config.hybrid is not None
        hybrid = fit_hybrid(
            config.model,
            config.training,
            config.hybrid,
            **loaders,
            classes=data.split.train.classes,
            run_dir=run_dir,
            callbacks=callbacks,
            class_weights=weights,
            metadata=metadata,
            tensors=tensors,
            resume=resume,
        )
        model, records, best = hybrid.hybrid, hybrid.records, hybrid.validation_accuracy
        chosen = next(row for row in records if (row["stage"], row["epoch"]) == (hybrid.stage, hybrid.epoch))
        _save_hybrid(run_dir, model, {**metadata, "validation_accuracy": best, "from_stage": hybrid.stage}, tensors)
        write_text_atomic(run_dir / METRICS, "".join(json.dumps(record) + "\n" for record in records))
    else:
        model.initialize(seed, device=backend, dtype=dtype)
        trainer = Trainer(
            model,
            config.training,
            **loaders,
            run_dir=run_dir,
            callbacks=callbacks(""),
            class_weights=weights,
            metadata=metadata,
            tensors=tensors,
        )
        if resume:
            trainer.resume()
        records, best = trainer.fit().records, trainer.best_accuracy
        chosen = records[trainer.best_epoch - 1]
    return Fit(config, model, records, best, chosen, data, backend)


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
    np.savez_compressed(buffer, **{name: labels.astype(np.uint16) for name, labels in predictions.items()})  # type: ignore[arg-type]
    write_bytes_atomic(path, buffer.getvalue())


def _start_folder(run_dir: Path, toml: str, backend: Backend, data: RunData, table: str) -> None:
    make_folder(run_dir)
    write_text_atomic(run_dir / "config.toml", toml)
    write_text_atomic(run_dir / "environment.json", json.dumps(_environment(backend, data), indent=2) + "\n")
    write_text_atomic(run_dir / "summary.txt", table + "\n")
    data.save_indices(run_dir / "split.npz")


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
