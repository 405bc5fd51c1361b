"""Analysis of the features of a trained CNN's layers: probes and maps, on the validation images."""

from __future__ import annotations

import csv
import io
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data import Dataset
from gpunet.data.loader import Loader
from gpunet.errors import ConfigError, DataError
from gpunet.experiments.inference import SavedModel, check_data, load_model
from gpunet.experiments.prepare import loader_of, prepare
from gpunet.files import PathLike, write_text_atomic
from gpunet.models import CNN, MLP, Hybrid
from gpunet.nn import Flatten, ForwardContext, Sequential
from gpunet.report.feature_figures import LayerMap, plot_layer_maps, plot_probes
from gpunet.report.metrics import principal_plane
from gpunet.report.run_figures import draw_all
from gpunet.tasks import CLASSIFICATION
from gpunet.training import Trainer, TrainingConfig
from gpunet.training.evaluation import extract

logger = logging.getLogger("gpunet")

PROBES = ("kNN", "logistic regression", "linear SVM", "MLP")
NEIGHBOURS = 5
COMPONENTS = 50
"""Principal components used by kNN and t-SNE: distances in thousands of dimensions are slow and less meaningful."""
MLP_HIDDEN, MLP_EPOCHS = (128, 64), 20

TABLE, MAPS, CHART = "features.csv", "feature_maps_of_layers.png", "feature_probes.png"


@dataclass(frozen=True)
class Probe:
    """The result of a classifier trained on the features of a layer."""

    layer: str
    features: int
    probe: str
    train_images: int
    validation_images: int
    validation_accuracy: float
    seconds: float


def analyse(
    path: PathLike,
    *,
    layers: Sequence[str] | None = None,
    out: PathLike | None = None,
    device: str | None = None,
    train_images: int = 6000,
    map_images: int = 2000,
    seed: int = 0,
) -> list[Probe]:
    """Train probes on the features of the CNN in the run folder `path`, and map its images.

    The probes are kNN (5 neighbours, on 50 principal components), logistic regression and linear SVM (scikit-learn, on
    standardised features), and the MLP 128-64 that is the hybrid's head. They are trained on a stratified subset of
    `train_images` training images and evaluated on all validation images; the test images are not used. The PCA and
    t-SNE maps show `map_images` validation images.

    Writes ``features.csv``, ``feature_probes.png`` and ``feature_maps_of_layers.png`` to `out`, by default `path`. A
    figure that cannot be drawn is left out, with a warning.

    Args:
        layers: names such as ``block2``; by default all blocks, and ``features`` unless it only flattens the last one.

    Raises:
        CheckpointError: no usable model. ConfigError: it is an MLP, or has no such layer. DataError: no usable data.
        OutputError: the table cannot be written.

    >>> from gpunet.experiments.features import analyse
    >>> max(analyse("runs/cnn"), key=lambda probe: probe.validation_accuracy).layer  # doctest: +SKIP
    'block5'
    """
    saved = load_model(path, device)
    if saved.task != CLASSIFICATION:
        raise ConfigError(f"{path} was trained for {saved.task}: features are analysed for classifiers")
    cnn = _cnn(saved, Path(path))
    names = list(layers) if layers else _default_layers(cnn)
    parts = [_until(cnn, name) for name in names]  # fails before the slow part
    options = saved.data_config()
    data = prepare(options)
    check_data(saved, data.split.train, options.data)
    train = _subset(data.split.train, train_images, seed)
    validation = data.split.validation
    shown = _subset(validation, map_images, seed)
    probes: list[Probe] = []
    maps: list[LayerMap] = []
    for name, part in zip(names, parts, strict=True):
        features = [_features(part, dataset, saved) for dataset in (train, validation)]
        probes += _probes(name, features, (train.labels, validation.labels), saved, seed)
        maps.append(_map(name, _features(part, shown, saved), seed))
    folder = Path(out) if out else saved.file.parent
    _write(probes, folder / TABLE)
    by_probe = [(probe, [row.validation_accuracy for row in probes if row.probe == probe]) for probe in PROBES]
    drawings = {
        CHART: lambda path: plot_probes(names, by_probe, path),
        MAPS: lambda path: plot_layer_maps(maps, shown.labels, shown.class_names, path),
    }
    draw_all(folder, drawings)
    return probes


def _cnn(saved: SavedModel, path: Path) -> Sequential:
    model = saved.model
    if isinstance(model, Hybrid):
        return model.extractor
    if isinstance(model, CNN):
        return model
    raise ConfigError(f"{path} contains an {type(model).__name__}: features are analysed for a CNN or a hybrid")


def _default_layers(cnn: Sequential) -> list[str]:
    """All blocks, and ``features`` unless it only flattens the output of the last one."""
    more = [name for name, layer in cnn.layers.items() if name == "features" and not isinstance(layer, Flatten)]
    return [name for name in cnn.layers if name.startswith("block")] + more


def _until(cnn: Sequential, name: str) -> Sequential:
    names = list(cnn.layers)
    if name not in names:
        raise ConfigError(f"there is no layer {name!r}: expected one of {', '.join(names)}")
    return Sequential([(layer, cnn.layers[layer]) for layer in names[: names.index(name) + 1]])


def _subset(dataset: Dataset, count: int, seed: int) -> Dataset:
    """A stratified subset of `count` images; all of them if there are no more."""
    if count >= len(dataset):
        return dataset
    from sklearn.model_selection import train_test_split

    classes = len(np.unique(dataset.labels))
    if count < classes:
        raise ConfigError(f"{count} images are too few for {classes} classes")
    chosen, _ = train_test_split(np.arange(len(dataset)), train_size=count, stratify=dataset.labels, random_state=seed)
    return dataset.take(np.sort(chosen))


def _features(part: Sequential, dataset: Dataset, saved: SavedModel) -> np.ndarray:
    """(n, F) float32: the outputs of `part`, flattened, in inference mode."""
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    found = extract(lambda x: part.forward(x, ForwardContext())[0].reshape(x.shape[0], -1), loader)
    if not np.isfinite(found).all():
        raise DataError("a feature is NaN or infinite, so the features cannot be analysed")
    return found


def _probes(
    layer: str, features: Sequence[np.ndarray], labels: tuple[np.ndarray, np.ndarray], saved: SavedModel, seed: int
) -> list[Probe]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features[0])
    train, validation = (scaler.transform(part) for part in features)
    rows = []
    for probe in PROBES:
        logger.info("%s: %s on %d features", layer, probe, train.shape[1])
        started = time.perf_counter()
        accuracy = _accuracy(probe, train, labels[0], validation, labels[1], saved, seed)
        seconds = round(time.perf_counter() - started, 1)
        rows.append(Probe(layer, train.shape[1], probe, len(train), len(validation), accuracy, seconds))
    return rows


def _accuracy(
    probe: str,
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    saved: SavedModel,
    seed: int,
) -> float:
    if probe == "MLP":
        return _mlp(train, train_labels, validation, validation_labels, saved.backend, len(saved.class_names), seed)
    classifier = _classifier(probe, train.shape, seed)
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # A probe that has not fully converged is still a probe: only its accuracy matters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train, train_labels)
    return float(classifier.score(validation, validation_labels))


def _classifier(probe: str, shape: tuple[int, ...], seed: int) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    make: dict[str, Callable[[], Any]] = {
        "kNN": lambda: make_pipeline(
            PCA(
                min(COMPONENTS, *shape),
                svd_solver="full" if min(shape) <= COMPONENTS else "randomized",
                random_state=seed,
            ),
            KNeighborsClassifier(NEIGHBOURS),
        ),
        "logistic regression": lambda: LogisticRegression(C=0.01, max_iter=200),
        "linear SVM": lambda: LinearSVC(C=1e-3, random_state=seed),
    }
    return make[probe]()


def _mlp(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    backend: Backend,
    classes: int,
    seed: int,
) -> float:
    """Accuracy of gpunet's MLP after its last epoch: choosing the epoch on the evaluation images would favour it."""
    train_loader = Loader(train.astype(np.float32), train_labels, backend=backend)
    validation_loader = Loader(validation.astype(np.float32), validation_labels, backend=backend)
    model = MLP((train.shape[1], *MLP_HIDDEN, classes), dropout=0.2).initialize(seed, device=backend)
    config = TrainingConfig(epochs=MLP_EPOCHS, lr=1e-3, weight_decay=0.05, keep="last", seed=seed)
    trainer = Trainer(model, config, train=train_loader, validation=validation_loader, progress=False)
    return float(trainer.fit().records[-1]["validation_accuracy"])


def _map(layer: str, features: np.ndarray, seed: int) -> LayerMap:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    points = features.astype(np.float64)
    plane, shares = principal_plane(points)
    count = min(COMPONENTS, *points.shape)
    reduced = PCA(count, svd_solver="full" if min(points.shape) <= COMPONENTS else "randomized", random_state=seed)
    perplexity = min(30.0, (len(points) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    return LayerMap(layer, plane, shares, tsne.fit_transform(reduced.fit_transform(points)))


def _write(probes: Sequence[Probe], path: Path) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = list(Probe.__dataclass_fields__)
    writer.writerow(names)
    writer.writerows([getattr(probe, name) for name in names] for probe in probes)
    write_text_atomic(path, buffer.getvalue())
