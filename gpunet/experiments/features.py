"""Analysis of the features of a trained CNN's layers: probes and maps, on the validation images."""

from __future__ import annotations

import csv
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from gpunet.training.evaluation import evaluate, extract

logger = logging.getLogger("gpunet")

PROBES = ("kNN", "logistic regression", "linear SVM", "MLP")
NEIGHBOURS = 5
COMPONENTS = 50
"""Principal components used by kNN and t-SNE: distances in thousands of dimensions are slow and less meaningful."""
LINEAR_COMPONENTS = 256
"""Principal components used by the linear probes, which take minutes on thousands of features, and are as accurate."""
MLP_HIDDEN, MLP_EPOCHS, MLP_BATCH = (128, 64), 20, 128

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
    map_images: int = 1000,
    seed: int = 0,
) -> list[Probe]:
    """Train probes on the features of the CNN in the run folder `path`, and map its images.

    The probes are kNN (5 neighbours, on 50 principal components), logistic regression and linear SVM (scikit-learn, on
    at most 256 principal components), and the MLP 128-64 that is the hybrid's head, all on standardised features. They
    are trained on a stratified subset of `train_images` training images and evaluated on all validation images; the
    test images are not used. The PCA and t-SNE maps show `map_images` validation images.

    Writes ``features.csv``, ``feature_probes.png`` and ``feature_maps_of_layers.png`` to `out`, by default `path`. A
    figure that cannot be drawn is left out, with a warning.

    Args:
        layers: names such as ``block2``, analysed in the order in which the network has them; by default all blocks,
            and ``features`` unless it only flattens the last one.

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
    names = _ordered(cnn, layers) if layers else _default_layers(cnn)  # fails before the slow part
    options = saved.data_config()
    data = prepare(options)
    check_data(saved, data.split.train, options.data)
    train = data.split.train.take(_subset(data.split.train, train_images, seed))
    validation = data.split.validation
    chosen = _subset(validation, map_images, seed)
    labels = train.labels, validation.labels
    logger.info(
        "layers %s, on %d of %d training images; accuracies on %d validation images, maps of %d of them",
        ", ".join(names),
        len(train),
        len(data.split.train),
        len(validation),
        len(chosen),
    )
    probes: list[Probe] = []
    maps: list[LayerMap] = []
    outputs = [_outputs(cnn, names, dataset, saved) for dataset in (train, validation)]
    for number, (name, *features) in enumerate(zip(names, *outputs, strict=True), start=1):
        title = f"layer {number} of {len(names)}, {name}"
        probes += _probes(title, name, features, labels, saved, seed)
        logger.info("%s: maps of %d images", title, len(chosen))
        maps.append(_map(name, features[1][chosen], seed))
    folder = Path(out) if out else saved.file.parent
    _write(probes, folder / TABLE)
    by_probe = [(probe, [row.validation_accuracy for row in probes if row.probe == probe]) for probe in PROBES]
    drawings = {
        CHART: lambda path: plot_probes(names, by_probe, path),
        MAPS: lambda path: plot_layer_maps(maps, validation.labels[chosen], validation.class_names, path),
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


def _ordered(cnn: Sequential, layers: Sequence[str]) -> list[str]:
    """The names as the network has them, each once."""
    for name in layers:
        if name not in cnn.layers:
            raise ConfigError(f"there is no layer {name!r}: expected one of {', '.join(cnn.layers)}")
    return [name for name in cnn.layers if name in layers]


def _subset(dataset: Dataset, count: int, seed: int) -> np.ndarray:
    """The indices, ascending, of a stratified subset of `count` images; of all if there are no more."""
    if count >= len(dataset):
        return np.arange(len(dataset))
    from sklearn.model_selection import train_test_split

    classes = len(np.unique(dataset.labels))
    if count < classes:
        raise ConfigError(f"{count} images are too few for {classes} classes")
    chosen, _ = train_test_split(np.arange(len(dataset)), train_size=count, stratify=dataset.labels, random_state=seed)
    return np.sort(chosen)


def _outputs(cnn: Sequential, names: Sequence[str], dataset: Dataset, saved: SavedModel) -> Iterator[np.ndarray]:
    """The outputs of each of the layers, flattened, (n, F), in inference mode; each is computed from the one before."""
    loader = loader_of(dataset, saved.scaling, saved.backend, saved.config.training.dtype)
    layers, begin = list(cnn.layers), 0
    for name in names:
        end = layers.index(name) + 1
        part = Sequential([(layer, cnn.layers[layer]) for layer in layers[begin:end]])
        found = extract(lambda x, part=part: part.forward(x, ForwardContext())[0], loader)  # type: ignore[misc]
        if not np.isfinite(found).all():
            raise DataError("a feature is NaN or infinite, so the features cannot be analysed")
        loader, begin = Loader(found, dataset.labels, backend=saved.backend, dtype=saved.config.training.dtype), end
        yield found.reshape(len(found), -1)


def _probes(
    title: str,
    layer: str,
    features: Sequence[np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    saved: SavedModel,
    seed: int,
) -> list[Probe]:
    from sklearn.preprocessing import StandardScaler

    count = features[0].shape[1]
    logger.info("%s: principal components of %d features", title, count)
    scaler = StandardScaler().fit(features[0])
    train, validation = (scaler.transform(part) for part in features)
    projection = _components(min(LINEAR_COMPONENTS, *train.shape), train.shape, seed)
    with _one_thread():
        projection.fit(train)
        projected = [projection.transform(part) for part in (train, validation)]
    rows = []
    for probe in PROBES:
        logger.info("%s: %s", title, probe)
        started = time.perf_counter()
        if probe == "MLP":
            classes = len(saved.class_names)
            accuracy = _mlp(train, labels[0], validation, labels[1], saved.backend, classes, seed)
        else:
            used = COMPONENTS if probe == "kNN" else LINEAR_COMPONENTS
            with _one_thread():
                accuracy = _accuracy(probe, [part[:, :used] for part in projected], labels, seed)
        seconds = round(time.perf_counter() - started, 1)
        rows.append(Probe(layer, count, probe, len(train), len(validation), accuracy, seconds))
    return rows


def _one_thread() -> Any:
    """One thread for what scikit-learn computes.

    It gains little from more, which wait for each other in loops: where other programs run, too, that takes ten times
    the time.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _components(count: int, shape: tuple[int, ...], seed: int) -> Any:
    """scikit-learn's PCA, randomised unless that would be less exact for no gain."""
    from sklearn.decomposition import PCA

    return PCA(count, svd_solver="full" if min(shape) <= 2 * count else "randomized", random_state=seed)


def _accuracy(probe: str, features: Sequence[np.ndarray], labels: tuple[np.ndarray, np.ndarray], seed: int) -> float:
    from sklearn.exceptions import ConvergenceWarning

    classifier = _classifier(probe, seed)
    with warnings.catch_warnings():
        # A probe that has not fully converged is still a probe: only its accuracy matters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features[0], labels[0])
    return float(classifier.score(features[1], labels[1]))


def _classifier(probe: str, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    make: dict[str, Callable[[], Any]] = {
        "kNN": lambda: KNeighborsClassifier(NEIGHBOURS),
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
    few = Loader(train[:MLP_BATCH].astype(np.float32), train_labels[:MLP_BATCH], backend=backend)  # not looked at
    model = MLP((train.shape[1], *MLP_HIDDEN, classes), dropout=0.2).initialize(seed, device=backend)
    config = TrainingConfig(epochs=MLP_EPOCHS, batch_size=MLP_BATCH, lr=1e-3, weight_decay=0.05, keep="last", seed=seed)
    trainer = Trainer(model, config, train=train_loader, validation=few, progress=False)
    trainer.fit()
    return evaluate(model, Loader(validation.astype(np.float32), validation_labels, backend=backend)).accuracy


def _map(layer: str, features: np.ndarray, seed: int) -> LayerMap:
    from sklearn.manifold import TSNE

    points = features.astype(np.float64)
    with _one_thread():
        plane, shares = principal_plane(points)
        reduced = _components(min(COMPONENTS, *points.shape), points.shape, seed)
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
