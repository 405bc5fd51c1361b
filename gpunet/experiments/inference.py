"""Trained models: loading from a run folder or a checkpoint, evaluation, and prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data import Dataset, read_image
from gpunet.data.config import FASHION_MNIST
from gpunet.data.dataset import EIGHT_BITS, FASHION_MNIST_CLASSES
from gpunet.data.loader import Loader
from gpunet.data.scaling import Scaling
from gpunet.data.sources import read
from gpunet.devices import get_backend
from gpunet.errors import CheckpointError, ConfigError, DataError, ShapeError
from gpunet.experiments.config import RunConfig, from_toml
from gpunet.experiments.prepare import loader_of, prepare
from gpunet.models import CNN, CNNConfig, Hybrid, create
from gpunet.nn import Sequential
from gpunet.report.figures import plot_feature_scatter
from gpunet.report.metrics import confusion_matrix
from gpunet.report.run_figures import plot_evaluation
from gpunet.training.checkpoint import load_checkpoint, prefixed, under
from gpunet.training.evaluation import Evaluation, extract, with_mirror_images
from gpunet.training.evaluation import evaluate as evaluate_model
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
    file: Path
    """The checkpoint."""

    @property
    def of_table(self) -> bool:
        """Whether it takes the features of a table rather than images."""
        return self.metadata.get("table") is True

    @property
    def value_range(self) -> tuple[float, float]:
        """The pixel values that its scaling maps to 0 and 1, before standardisation."""
        low, high = self.config.data.value_range or EIGHT_BITS
        return low, high


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
        "table": dataset.is_table,
    }


def scaling_tensors(scaling: Scaling) -> dict[str, np.ndarray]:
    """The scaling as stored in a checkpoint."""
    return prefixed("input", scaling.to_arrays())


def load_model(path: Path, device: str | None = None) -> SavedModel:
    """The model in a run folder (its best checkpoint) or a checkpoint file, ready on `device`.

    Raises:
        CheckpointError: there is none, it is damaged, its weights do not fit its configuration, or one is not finite.
        DeviceError: the device is not available.
    """
    backend = get_backend(device)
    file = path / BEST if path.is_dir() else path
    tensors, metadata = load_checkpoint(file)
    try:
        config, input_shape, names = _described(metadata)
        scaling = Scaling.from_arrays(under("input", tensors))
        stage = metadata.get("stage")
        if stage == "classifier":
            raise CheckpointError("it is the classifier of a hybrid and needs its CNN: give the hybrid's run folder")
        if stage == "cnn" and isinstance(config.model, CNNConfig):
            model: Sequential = CNN.from_config(config.model, input_shape, len(names))
        else:
            model = create(config.model, input_shape, len(names))
    except (CheckpointError, ConfigError, DataError, ShapeError) as error:
        raise CheckpointError(f"{file} does not describe a usable model: {error}") from error
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
    return SavedModel(model, config, input_shape, names, scaling, backend, metadata, file)


def _described(metadata: dict[str, Any]) -> tuple[RunConfig, tuple[int, int, int], tuple[str, ...]]:
    """Configuration, image shape and class names in the header of a checkpoint."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("config"), str):
        raise CheckpointError("its header has no configuration")
    shape = metadata.get("input_shape")
    if not isinstance(shape, list) or [type(side) for side in shape] != [int] * 3 or min(shape) < 1:
        raise CheckpointError(f"input_shape must be [height, width, channels], got {shape!r:.80}")
    config = from_toml(metadata["config"], source="its configuration")
    return config, (shape[0], shape[1], shape[2]), _class_names(metadata)


def _class_names(metadata: Any) -> tuple[str, ...]:
    names = metadata.get("class_names") if isinstance(metadata, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"class_names must be a list of names, got {names!r:.80}")
    return tuple(names)


def load_class_names(path: Path) -> tuple[str, ...]:
    """The class names of the model in a run folder or a checkpoint file.

    Raises:
        CheckpointError: there is none, or it has no class names.
    """
    file = path / BEST if path.is_dir() else path
    _, metadata = load_checkpoint(file)
    try:
        return _class_names(metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None


def check_data(saved: SavedModel, dataset: Dataset, source: str) -> None:
    """Check that `dataset`, the data set `source`, has the images and the classes that the model was trained on.

    Labels are indices into the class names, so the names must be the same in the same order: were they mapped by name,
    a class that was only renamed would go unnoticed. A data set without names, whose names are 0, 1, 2 and so on, and
    a model trained on one, are compared by the number of classes alone.

    Raises:
        DataError: the images have another shape, or the classes another number, names or order.
    """
    own, other = saved.class_names, dataset.class_names
    if saved.of_table != dataset.is_table:
        kinds = ("a table", "images")
        taken, given = kinds if saved.of_table else kinds[::-1]
        raise DataError(f"the model takes {taken}, but the data set {source} holds {given}")
    if dataset.image_shape != saved.input_shape or len(own) != len(other):
        raise DataError(
            f"the model takes images {saved.input_shape} of {len(own)} classes, but the data set {source} has images "
            f"{dataset.image_shape} of {len(other)} classes"
        )
    unnamed = tuple(str(number) for number in range(len(own)))
    if own == other or unnamed in (own, other):
        return
    first = next(number for number, names in enumerate(zip(own, other, strict=True)) if names[0] != names[1])
    raise DataError(
        f"the classes of the model are {_some(own)}, but those of the data set {source} are {_some(other)}: label "
        f"{first} means {own[first]!r} to the model and {other[first]!r} in the data; number the labels and order "
        "class_names as in training"
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def evaluate_saved(saved: SavedModel, dataset: Dataset) -> tuple[Evaluation, np.ndarray, Loader]:
    """Evaluate the model on `dataset`: its results, the class probabilities (n, classes), and the images on the device.

    Raises:
        CheckpointError: a probability or the loss is not finite.
    """
    dataset = dataset.in_range(saved.value_range)
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    found = evaluate_model(saved.model, loader, keep_probabilities=True)
    assert found.probabilities is not None
    _check_finite(saved, found.probabilities, found.loss)
    return found, found.probabilities, loader


def _check_finite(saved: SavedModel, probabilities: np.ndarray, loss: float) -> None:
    wrong = np.count_nonzero(~np.isfinite(probabilities).all(axis=1))
    if wrong or not np.isfinite(loss):
        raise CheckpointError(
            f"the model in {saved.file} gives class probabilities that are NaN or infinite for {wrong} of "
            f"{len(probabilities)} images (loss {loss}): its weights are too large; use another checkpoint, or train "
            "again"
        )


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

    `figures` saves the confusion matrix, per-class metrics and most confident mistakes to the run folder; one that
    cannot be drawn is left out, with a warning. `tta` also counts correct predictions with test-time augmentation:
    probabilities averaged over each image and its mirror image.

    Raises:
        ConfigError: `tta` for a model that was not trained on mirrored images.
        CheckpointError: no usable model, or its outputs are not finite.
        DataError: no usable data, or they do not fit the model; see :func:`check_data`.
    """
    saved = load_model(path, device)
    options = saved.config.data
    if tta and not options.mirrors:
        raise ConfigError(
            f"{path} was not trained on mirrored images (--flip), so it cannot classify them: leave out --tta"
        )
    own = options if data is None else dataclasses.replace(options, data=data)
    dataset = prepare(own).part(split) if data is None or split != "test" else read(data, own).test
    check_data(saved, dataset, options.data if data is None else data)
    found, probabilities, loader = evaluate_saved(saved, dataset)
    if figures:
        plot_evaluation(path if path.is_dir() else path.parent, dataset, probabilities, prefix=f"{split}_")
    matrix = confusion_matrix(dataset.labels, probabilities.argmax(1), dataset.classes)
    tta_correct = None
    if tta:
        averaged = with_mirror_images(saved.model, loader, probabilities)
        _check_finite(saved, averaged, found.loss)
        tta_correct = int((averaged.argmax(1) == dataset.labels).sum())
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
    check_data(saved, dataset, saved.config.data.data)
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    features = extract(saved.model.extract_features, loader)
    target = (path if path.is_dir() else path.parent) / "feature_map.png"
    plot_feature_scatter(features, dataset.labels, dataset.class_names, target)
    return target


def predict(path: Path, images: Sequence[Path], *, device: str | None = None, invert: str = "auto") -> list[Prediction]:
    """Class probabilities of image files of any size; see :func:`gpunet.data.read_image`.

    With `invert` ``auto``, images are inverted for models of Fashion-MNIST only: others saw theirs as they are.

    Raises:
        CheckpointError: no usable model, or its outputs are not finite. DataError: a file cannot be read as an image;
            nothing is predicted then.
    """
    saved = load_model(path, device)
    if saved.of_table:
        raise DataError(f"the model in {path} takes the features of a table, not images: use gpunet evaluate --data")
    if invert == "auto" and saved.class_names != FASHION_MNIST_CLASSES and saved.config.data.data != FASHION_MNIST:
        invert = "never"
    pixels = np.stack([read_image(image, saved.input_shape, invert=invert) for image in images])
    dataset = Dataset(pixels, np.zeros(len(images), np.int32), saved.class_names)
    _, probabilities, _ = evaluate_saved(saved, dataset)
    return [
        Prediction(image, int(row.argmax()), [float(value) for value in row], saved.class_names)
        for image, row in zip(images, probabilities, strict=True)
    ]
