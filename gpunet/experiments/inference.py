"""Using trained models: evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data import Dataset, read_image
from gpunet.data.config import FASHION_MNIST
from gpunet.data.dataset import FASHION_MNIST_CLASSES
from gpunet.data.loader import Loader
from gpunet.data.sources import read
from gpunet.data.tables import is_table_name, read_rows
from gpunet.errors import CheckpointError, ConfigError, DataError
from gpunet.experiments.config import RunConfig
from gpunet.experiments.prepare import loader_of, prepare
from gpunet.experiments.saved import SavedModel, check_finite, load_class_names, load_model
from gpunet.files import PathLike
from gpunet.models import Hybrid
from gpunet.report.figures import plot_feature_scatter
from gpunet.report.metrics import confusion_matrix
from gpunet.report.run_figures import plot_evaluation, plot_predictions
from gpunet.tasks import CLASSIFICATION, REGRESSION
from gpunet.training.evaluation import Evaluation, extract, with_mirror_images
from gpunet.training.evaluation import evaluate as evaluate_model
from gpunet.training.metrics import monitoring
from gpunet.training.objective import DEFAULT_LOSSES

__all__ = [
    "EvaluationResult",
    "Prediction",
    "SavedModel",
    "check_data",
    "evaluate",
    "evaluate_saved",
    "feature_map",
    "load_class_names",
    "load_model",
    "predict",
]


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
    task: str = CLASSIFICATION
    scores: Mapping[str, float] = field(default_factory=dict)
    """The metrics by name; empty if the accuracy is the only one."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image, or for one row of a table."""

    path: Path
    label: int
    """The class; -1 for other tasks."""
    probabilities: list[float]
    """Of the classes, or of each label; the numbers that a regression predicts."""
    class_names: tuple[str, ...]
    task: str = CLASSIFICATION
    row: int | None = None
    """Of a table: the number of the row, from 1."""


def predicted(found: Evaluation) -> np.ndarray:
    """What was predicted: classes (n,), labels (n, K) or numbers (n, K)."""
    if found.predictions is not None:
        return found.predictions
    assert found.probabilities is not None
    return found.probabilities.argmax(1) if "accuracy" in found.scores else found.probabilities > 0.5


def measured(config: RunConfig) -> dict[str, Any]:
    """Loss and metrics of a run, as arguments of an evaluation."""
    training = config.training
    return {
        "loss": DEFAULT_LOSSES[config.data.task] if training.loss == "auto" else training.loss,
        "metrics": monitoring(training.metric, config.data.task),
    }


def check_data(saved: SavedModel, dataset: Dataset, source: str) -> None:
    """Check that `dataset`, the data set `source`, has the images and the classes that the model was trained on.

    Labels are indices into the class names, so the names must be the same in the same order: were they mapped by name,
    a class that was only renamed would go unnoticed. A data set without names, whose names are 0, 1, 2 and so on, and
    a model trained on one, are compared by the number of classes alone.

    Raises:
        DataError: the images have another shape, or the classes another number, names or order; or it is for another
            task.
    """
    if saved.task != dataset.task:
        raise DataError(f"the model was trained for {saved.task}, but the data set {source} is for {dataset.task}")
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
    if own == other or unnamed in (own, other) or saved.task != CLASSIFICATION:
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
    """Evaluate the model on `dataset`: its results, the probabilities (n, classes), and the images on the device.

    Of a regression, the numbers that are predicted (n, K) instead of probabilities.

    Raises:
        CheckpointError: a probability or the loss is not finite.
    """
    dataset = dataset.in_range(saved.value_range)
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    found = evaluate_model(saved.model, loader, **measured(saved.config), keep_probabilities=True)
    outputs = found.probabilities if found.predictions is None else found.predictions
    assert outputs is not None
    check_finite(saved, outputs, found.loss)
    return found, outputs, loader


def evaluate(
    path: PathLike,
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

    >>> from gpunet.experiments.config import merge
    >>> from gpunet.experiments.run import evaluate, fit
    >>> np.savez("pets.npz", X=np.zeros((40, 8, 8), np.uint8), y=["cat", "dog"] * 20)
    >>> found = fit(merge("mlp", "baseline", overrides={"data": "pets.npz", "epochs": 1}), run_dir="run")
    >>> result = evaluate("run")
    >>> result.correct, result.total, result.class_names  # all images are the same, half of them are cats
    (4, 8, ('cat', 'dog'))
    """
    saved = load_model(path, device)
    options = saved.data_config(data, split)
    if tta and not saved.config.data.mirrors:
        raise ConfigError(
            f"{path} was not trained on mirrored images (--flip), so it cannot classify them: leave out --tta"
        )
    dataset = prepare(options).part(split) if data is None or split != "test" else read(data, options).test
    check_data(saved, dataset, options.data if data is None else data)
    found, probabilities, loader = evaluate_saved(saved, dataset)
    if saved.task != CLASSIFICATION:
        if figures:
            plot_predictions(saved.file.parent, dataset, predicted(found), prefix=f"{split}_")
        return EvaluationResult(
            split, found.loss, 0, found.total, [], saved.class_names, task=saved.task, scores=found.scores
        )
    if figures:
        plot_evaluation(saved.file.parent, dataset, probabilities, prefix=f"{split}_")
    matrix = confusion_matrix(dataset.labels, probabilities.argmax(1), dataset.classes)
    tta_correct = None
    if tta:
        averaged = with_mirror_images(saved.model, loader, probabilities)
        check_finite(saved, averaged, found.loss)
        tta_correct = int((averaged.argmax(1) == dataset.labels).sum())
    scores = {} if list(found.scores) == ["accuracy"] else found.scores
    return EvaluationResult(
        split, found.loss, found.correct, found.total, matrix.tolist(), saved.class_names, tta_correct, scores=scores
    )


def feature_map(path: PathLike, *, device: str | None = None, split: str = "test") -> Path:
    """Plot the features of the hybrid at `path` for its `split` images, as ``feature_map.png`` in the run folder.

    The features are projected onto their first two principal components.

    Raises:
        CheckpointError: no usable model, or it is not a hybrid. DataError: no usable data.
    """
    saved = load_model(path, device)
    if saved.task != CLASSIFICATION:
        raise CheckpointError(f"{path} was trained for {saved.task}: a feature map shows classes")
    if not isinstance(saved.model, Hybrid):
        raise CheckpointError(f"{path} contains a {type(saved.model).__name__}: a feature map needs a Hybrid")
    options = saved.data_config()
    dataset = prepare(options).part(split)
    check_data(saved, dataset, options.data)
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    features = extract(saved.model.extract_features, loader)
    target = saved.file.parent / "feature_map.png"
    plot_feature_scatter(features, dataset.labels, dataset.class_names, target)
    return target


def predict(
    path: PathLike, images: Sequence[PathLike], *, device: str | None = None, invert: str = "auto"
) -> list[Prediction]:
    """Class probabilities of image files of any size; see :func:`gpunet.data.read_image`.

    For a model of a table, of the rows of such tables (CSV, TSV, Parquet, or NPZ with a single array), whose columns
    are found by their names; one of labels may be there or not.

    With `invert` ``auto``, images are inverted for models of Fashion-MNIST only: others saw theirs as they are.

    Raises:
        CheckpointError: no usable model, or its outputs are not finite. DataError: a file cannot be read as an image,
            or a table; nothing is predicted then. ConfigError: `invert` is given for a table.

    >>> from gpunet.experiments.run import predict
    >>> gn.save(gn.models.CNN((8, 8, 1), 2, (4,)).initialize(), "model.safetensors", class_names=["cat", "dog"],
    ...     scaling=gn.data.scaling.scaling_of(np.zeros((1, 8, 8, 1), np.uint8), "none"))
    >>> np.save("image.npy", np.eye(8))
    >>> [one] = predict("model.safetensors", ["image.npy"])
    >>> one.class_names, round(sum(one.probabilities), 5)
    (('cat', 'dog'), 1.0)
    """
    saved = load_model(path, device)
    if saved.of_table:
        return _predict_rows(saved, [Path(table) for table in images], invert)
    if tables := [str(image) for image in images if is_table_name(Path(image))]:
        raise DataError(f"the model in {path} takes images, not tables such as {tables[0]}")
    if invert == "auto" and saved.class_names != FASHION_MNIST_CLASSES and saved.config.data.data != FASHION_MNIST:
        invert = "never"
    pixels = np.stack([read_image(image, saved.image_shape, invert=invert) for image in images])
    found = _predictions(saved, saved.pictures(pixels))
    return [_prediction(saved, Path(image), row) for image, row in zip(images, found, strict=True)]


def _predict_rows(saved: SavedModel, tables: Sequence[Path], invert: str) -> list[Prediction]:
    if invert != "auto":
        raise ConfigError(f"the model in {saved.file} takes the features of a table: leave out invert {invert}")
    for table in tables:
        if not is_table_name(table) and table.suffix.lower() != ".npz":
            raise DataError(
                f"the model in {saved.file} takes the features of a table, not images: expected a file .csv, .tsv, "
                f".parquet or .npz, got {table}"
            )
    rows = [read_rows(table, saved.feature_names, saved.input_shape[-1]) for table in tables]
    return [
        _prediction(saved, table, values, number)
        for table, own in zip(tables, rows, strict=True)
        for number, values in enumerate(_predictions(saved, own), start=1)
    ]


def _predictions(saved: SavedModel, inputs: np.ndarray) -> np.ndarray:
    """Probabilities, or the numbers that a regression predicts, (n, K)."""
    return saved.predict(inputs).reshape(len(inputs), -1) if saved.task == REGRESSION else saved.predict_proba(inputs)


def _prediction(saved: SavedModel, path: Path, values: np.ndarray, row: int | None = None) -> Prediction:
    label = int(values.argmax()) if saved.task == CLASSIFICATION else -1
    return Prediction(path, label, [float(value) for value in values], saved.class_names, saved.task, row)
