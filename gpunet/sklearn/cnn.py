"""Convolutional networks as estimators: the CNN, the hybrid, and the CNN's features as a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from gpunet.checks import check_int
from gpunet.data.loader import Loader
from gpunet.models import CNN, Hybrid
from gpunet.nn import Sequential
from gpunet.sklearn.base import ClassNetwork, NetworkClassifier, sizes
from gpunet.sklearn.fitting import Progress, Recipe, Stopping, passes


class _Convolutional(ClassNetwork):
    """The parameters of a CNN."""

    _warns = False  # max_iter is a budget here, as in all of gpunet's trainings
    _auto_batch = 128

    def __init__(
        self,
        filters: Sequence[int] = (32, 64),
        activation: str = "relu",
        *,
        kernel_sizes: int | Sequence[int] = 3,
        pooling: str = "max",
        batch_norm: bool = True,
        head: Sequence[int] = (),
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate_init: float = 2e-3,
        max_iter: int = 20,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        n_iter_no_change: int = 10,
        dropout: float = 0.0,
        class_weight: Any = None,
        augment: Any = None,
        image_shape: Sequence[int] | None = None,
        device: str | None = None,
        precision: str = "float32",
    ) -> None:
        self.filters = filters
        self.activation = activation
        self.kernel_sizes = kernel_sizes
        self.pooling = pooling
        self.batch_norm = batch_norm
        self.head = head
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.n_iter_no_change = n_iter_no_change
        self.dropout = dropout
        self.class_weight = class_weight
        self.augment = augment
        self.image_shape = image_shape
        self.device = device
        self.precision = precision

    def _build(self, shape: tuple[int, ...], classes: int) -> Sequential:
        return self._cnn(shape, classes)

    def _cnn(self, shape: tuple[int, ...], classes: int) -> CNN:
        return CNN(
            shape,
            classes,
            sizes("filters", self.filters),
            sizes("kernel_sizes", self.kernel_sizes),
            self.pooling,
            self.activation,
            self.batch_norm,
            "he",
            sizes("head", self.head),
            self.dropout,
        )


class CNNClassifier(NetworkClassifier, _Convolutional):
    """A convolutional network on images (n, H, W), (n, H, W, C), or flat with `image_shape`.

    uint8 images are scaled and standardised per channel, and can be augmented; floats are standardised per channel.
    Rows without `image_shape` are images of one line, (1, F, 1).

    Args:
        filters, kernel_sizes, pooling, activation, batch_norm, head, dropout: as for :class:`gpunet.models.CNN`.
        max_iter: passes at most; they end before if the loss gets no better.
        others: as for :class:`gpunet.sklearn.MLPClassifier`.

    >>> from gpunet.sklearn import CNNClassifier
    >>> X = np.zeros((20, 8, 8), np.uint8)
    >>> X[:10, :4] = X[10:, 4:] = 255
    >>> y = ["above"] * 10 + ["below"] * 10
    >>> CNNClassifier((4,), max_iter=10, random_state=0).fit(X, y).predict(X[[0, 19]])
    array(['above', 'below'], dtype='<U5')
    """


class HybridClassifier(NetworkClassifier, _Convolutional):
    """An MLP on the features of a CNN that is trained before it; see :class:`gpunet.models.Hybrid`.

    ``loss_curve_`` and all other records are those of the MLP, ``cnn_loss_curve_`` that of the CNN. It can neither be
    warm-started nor fitted in parts, since the MLP needs the features of the finished CNN.

    Args:
        hidden_layer_sizes, classifier_dropout: of the MLP.
        classifier_max_iter: passes of the MLP over the features at most.
        feature_layer: layer of the CNN whose output is the MLP's input.
        others: as for :class:`CNNClassifier`, of the CNN and of both trainings.

    >>> from gpunet.sklearn import HybridClassifier
    >>> X = np.zeros((20, 8, 8), np.uint8)
    >>> X[:10, :4] = X[10:, 4:] = 255
    >>> hybrid = HybridClassifier((4,), hidden_layer_sizes=(8,), random_state=0).fit(X, [0] * 10 + [1] * 10)
    >>> hybrid.score(X, [0] * 10 + [1] * 10)
    1.0
    """

    def __init__(
        self,
        filters: Sequence[int] = (32, 64),
        activation: str = "relu",
        *,
        hidden_layer_sizes: int | Sequence[int] = (128, 64),
        classifier_dropout: float = 0.0,
        classifier_max_iter: int = 20,
        feature_layer: str = "features",
        kernel_sizes: int | Sequence[int] = 3,
        pooling: str = "max",
        batch_norm: bool = True,
        head: Sequence[int] = (),
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate_init: float = 2e-3,
        max_iter: int = 20,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        n_iter_no_change: int = 10,
        dropout: float = 0.0,
        class_weight: Any = None,
        augment: Any = None,
        image_shape: Sequence[int] | None = None,
        device: str | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(
            filters,
            activation,
            kernel_sizes=kernel_sizes,
            pooling=pooling,
            batch_norm=batch_norm,
            head=head,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            n_iter_no_change=n_iter_no_change,
            dropout=dropout,
            class_weight=class_weight,
            augment=augment,
            image_shape=image_shape,
            device=device,
            precision=precision,
        )
        del self.warm_start  # no parameter of this one
        self.hidden_layer_sizes = hidden_layer_sizes
        self.classifier_dropout = classifier_dropout
        self.classifier_max_iter = classifier_max_iter
        self.feature_layer = feature_layer

    @property
    def partial_fit(self) -> Any:
        """There is none, as the MLP needs the features of the finished CNN.

        Raises:
            AttributeError: always.
        """
        raise AttributeError("a HybridClassifier cannot be fitted in parts")

    def _build(self, shape: tuple[int, ...], classes: int) -> Sequential:
        return self._on(self._cnn(shape, classes), classes)

    def _on(self, cnn: CNN, classes: int) -> Hybrid:
        return Hybrid(
            cnn,
            classes,
            feature_layer=self.feature_layer,
            hidden=sizes("hidden_layer_sizes", self.hidden_layer_sizes),
            activation=self.activation,
            dropout=self.classifier_dropout,
        )

    def _train(self, loader: Loader, recipe: Recipe, stopping: Stopping, score: Any) -> bool:
        backend, seed = loader.backend, self._progress.seed
        loss = self._loss(loader.targets)
        classes = len(self.classes_)
        cnn = self._cnn(self._preparation.shape, classes).initialize(seed, device=backend)
        first = Progress(seed)
        passes(cnn, loader, recipe, first, stopping, loss, say=self._say)
        self.cnn_loss_curve_ = first.losses
        hybrid = self.model_ = self._on(cnn, classes)
        features = [backend.to_numpy(hybrid.extract_features(x)) for x, _ in loader.batches(1024)]
        head = hybrid.classifier.initialize(seed, device=backend)
        hybrid.initialize(seed, device=backend)
        head.initialize(device=backend)  # its arrays are those that are trained now
        weight = loader.sample_weight
        on_features = Loader(np.concatenate(features), loader.targets, sample_weight=weight, backend=backend)
        second = Stopping(
            check_int("classifier_max_iter", self.classifier_max_iter, low=1), stopping.tol, stopping.patience
        )
        stopped = passes(head, on_features, recipe, self._progress, second, loss, score=score, say=self._say)
        hybrid.initialize(seed, device=backend)
        return stopped


class CNNFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Convolutional):
    """The features of a CNN that is trained on labelled images, as a transformer; arguments as :class:`CNNClassifier`.

    ``transform`` returns the inputs of the last linear layers, float32 (n, features).

    >>> from gpunet.sklearn import CNNFeatures
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import LinearSVC
    >>> X = np.zeros((20, 8, 8), np.uint8)
    >>> X[:10, :4] = X[10:, 4:] = 255
    >>> features = CNNFeatures((4,), max_iter=5, random_state=0)
    >>> features.fit_transform(X, [0] * 10 + [1] * 10).shape  # (8 / 2) * (8 / 2) * 4
    (20, 64)
    >>> make_pipeline(features, LinearSVC()).fit(X, [0] * 10 + [1] * 10).score(X, [0] * 10 + [1] * 10)
    1.0
    """

    def transform(self, X: Any) -> np.ndarray:
        """The features of the images X."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        extractor = self.model_.until("features")
        return self._preparation.outputs(extractor, rows, self.model_.flat.backend)

    def fit_transform(self, X: Any, y: Any = None, **options: Any) -> np.ndarray:
        """The features of X after training on X and y."""
        return self.fit(X, y, **options).transform(X)

    @property
    def _n_features_out(self) -> int:
        return int(np.prod(self.model_.until("features").output_shape(self._preparation.shape)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        return tags
