"""Trained models: loading from a run folder or a checkpoint, evaluation, and prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data import Dataset, load, read_image
from gpunet.data.scaling import Scaling
from gpunet.devices import get_backend
from gpunet.errors import CheckpointError, ConfigError, DataError
from gpunet.experiments.config import RunConfig, from_toml
from gpunet.experiments.prepare import loader_of, prepare
from gpunet.models import CNN, CNNConfig, Hybrid, create
from gpunet.nn import Sequential
from gpunet.report.figures import plot_feature_scatter
from gpunet.report.metrics import confusion_matrix
from gpunet.report.run_figures import plot_evaluation
from gpunet.training.checkpoint import load_checkpoint, prefixed, under
from gpunet.training.evaluation import evaluate as evaluate_model
from gpunet.training.evaluation import extract, with_mirror_images
from gpunet.training.trainer import BEST


@dataclass(frozen=True)
class SavedModel:
    """A trained model with everything needed to use it."""

    model: Sequential
    config: RunConfig
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    scaling: Scaling
    backend: Backend
    metadata: dict[str, Any]


@dataclass(frozen=True)
class EvaluationResult:
    """A model's metrics on one split of a data set."""

    split: str
    loss: float
    correct: int
    total: int
    confusion: list[list[int]]
    """Row: true class; column: predicted class."""
    class_names: tuple[str, ...]
    tta_correct: int | None = None
    """With test-time augmentation: probabilities averaged over each image and its mirror image; None without it."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image."""

    path: Path
    label: int
    probabilities: list[float]
    class_names: tuple[str, ...]


def description(config: RunConfig, toml: str, dataset: Dataset) -> dict[str, Any]:
    """The metadata stored in every checkpoint, so that it can be used without its run folder."""
    return {
        "kind": config.kind,
        "config": toml,
        "input_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
    }


def scaling_tensors(scaling: Scaling) -> dict[str, np.ndarray]:
    """The scaling as stored in a checkpoint."""
    return prefixed("input", scaling.to_arrays())


def load_model(path: Path, device: str | None = None) -> SavedModel:
    """The model in a run folder (its best checkpoint) or a checkpoint file, ready on `device`.

    Raises:
        CheckpointError: there is none, it is damaged, or its weights do not fit its configuration.
        DeviceError: the device is not available.
    """
    backend = get_backend(device)
    file = path / BEST if path.is_dir() else path
    tensors, metadata = load_checkpoint(file)
    try:
        config = from_toml(metadata["config"], source=str(file))
        input_shape, names = _input_shape(metadata["input_shape"]), _class_names(metadata["class_names"])
        scaling = Scaling.from_arrays(under("input", tensors))
    except (KeyError, ConfigError, DataError) as error:
        raise CheckpointError(f"{file} does not describe a usable model: {error}") from error
    stage = metadata.get("stage")
    if stage == "classifier":
        raise CheckpointError(f"{file} is the classifier of a hybrid and needs its CNN: give the hybrid's run folder")
    if stage == "cnn" and isinstance(config.model, CNNConfig):
        model: Sequential = CNN.from_config(config.model, input_shape, len(names))
    else:
        model = create(config.model, input_shape, len(names))
    stored = sum(tensor.size for tensor in under("model", tensors).values())
    if model.parameter_count > max(2 * stored, 10**6):  # checked before memory is taken for them
        raise CheckpointError(
            f"{file}: the checkpoint is for another architecture: it has {stored} numbers, this model needs "
            f"{model.parameter_count}"
        )
    model.initialize(config.training.seed, device=backend, dtype=config.training.dtype)
    assert model.flat is not None
    try:
        model.flat.load_state_dict(under("model", tensors))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return SavedModel(model, config, input_shape, names, scaling, backend, metadata)


def _input_shape(value: Any) -> tuple[int, int, int]:
    """The input shape in the metadata of a checkpoint, or DataError."""
    if not isinstance(value, list) or len(value) != 3 or any(type(size) is not int or size < 1 for size in value):
        raise DataError(f"input_shape must be three positive whole numbers (H, W, C), got {value!r:.80}")
    height, width, channels = value
    return height, width, channels


def _class_names(value: Any) -> tuple[str, ...]:
    """The class names in the metadata of a checkpoint, or DataError."""
    if not isinstance(value, list) or not value or any(not isinstance(name, str) for name in value):
        raise DataError(f"class_names must be a list of names, got {value!r:.80}")
    return tuple(value)


def load_class_names(path: Path) -> tuple[str, ...]:
    """The class names of the model in a run folder or a checkpoint file.

    Raises:
        CheckpointError: there is none.
    """
    file = path / BEST if path.is_dir() else path
    _, metadata = load_checkpoint(file)
    try:
        return _class_names(metadata["class_names"])
    except (KeyError, DataError):
        raise CheckpointError(f"{file} contains no class names") from None


def evaluate(
    path: Path,
    *,
    data: str | None = None,
    split: str = "test",
    device: str | None = None,
    figures: bool = False,
    tta: bool = False,
) -> EvaluationResult:
    """Evaluate the model at `path` on `split` of its data set, or of the data set `data`.

    `figures` saves the confusion matrix, per-class metrics and most confident mistakes to the run folder. `tta` also
    counts correct predictions with test-time augmentation: probabilities averaged over each image and its mirror image.

    Raises:
        ConfigError: `tta` for a model that was not trained on mirrored images.
        CheckpointError: no usable model. DataError: no usable data, or the image shape or number of classes differs.
    """
    saved = load_model(path, device)
    options = saved.config.data
    if tta and not options.mirrors:
        raise ConfigError(
            f"{path} was not trained on mirrored images (--flip), so it cannot classify them: leave out --tta"
        )
    if data is None or split != "test":
        run_data = prepare(options if data is None else dataclasses.replace(options, data=data))
        dataset = run_data.part(split)
    else:
        dataset = load(data)[1]
    if dataset.image_shape != saved.input_shape or dataset.classes != len(saved.class_names):
        raise DataError(
            f"the model takes images {saved.input_shape} of {len(saved.class_names)} classes, but the data set has "
            f"images {dataset.image_shape} of {dataset.classes} classes"
        )
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    found = evaluate_model(saved.model, loader, keep_probabilities=True)
    assert found.probabilities is not None
    if figures:
        plot_evaluation(path if path.is_dir() else path.parent, dataset, found.probabilities, prefix=f"{split}_")
    matrix = confusion_matrix(dataset.labels, found.probabilities.argmax(1), dataset.classes)
    tta_correct = None
    if tta:
        predictions = with_mirror_images(saved.model, loader, found.probabilities).argmax(1)
        tta_correct = int((predictions == dataset.labels).sum())
    return EvaluationResult(
        split, found.loss, found.correct, found.total, matrix.tolist(), saved.class_names, tta_correct
    )


def feature_map(path: Path, *, device: str | None = None, split: str = "test") -> Path:
    """Plot the features of the hybrid at `path` for its `split` images, as ``feature_map.png`` in the run folder.

    The features are projected onto their first two principal components.

    Raises:
        CheckpointError: no usable model, or it is not a hybrid. DataError: no usable data.
    """
    saved = load_model(path, device)
    if not isinstance(saved.model, Hybrid):
        raise CheckpointError(f"{path} contains a {type(saved.model).__name__}: a feature map needs a Hybrid")
    dataset = prepare(saved.config.data).part(split)
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    features = extract(saved.model.extract_features, loader)
    target = (path if path.is_dir() else path.parent) / "feature_map.png"
    plot_feature_scatter(features, dataset.labels, dataset.class_names, target)
    return target


def predict(path: Path, images: Sequence[Path], *, device: str | None = None, invert: str = "auto") -> list[Prediction]:
    """Class probabilities of image files of any size; see :func:`gpunet.data.read_image`.

    Raises:
        CheckpointError: no usable model. DataError: a file cannot be read as an image; nothing is predicted then.
    """
    saved = load_model(path, device)
    pixels = np.stack([read_image(image, saved.input_shape, invert=invert) for image in images])
    dataset = Dataset(pixels, np.zeros(len(images), np.int32), saved.class_names)
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    found = evaluate_model(saved.model, loader, keep_probabilities=True)
    assert found.probabilities is not None
    return [
        Prediction(image, int(row.argmax()), [float(value) for value in row], saved.class_names)
        for image, row in zip(images, found.probabilities, strict=True)
    ]
