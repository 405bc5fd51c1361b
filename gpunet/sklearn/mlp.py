"""The multilayer perceptron as a classifier and as a regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from gpunet.data.loader import Loader
from gpunet.data.targets import TargetScaling
from gpunet.errors import ConfigError
from gpunet.models import MLP
from gpunet.nn import HuberLoss, Linear, MSELoss, Sequential
from gpunet.nn.loss import Loss
from gpunet.sklearn.base import Network, NetworkClassifier, sizes
from gpunet.training.metrics import METRICS

_LOSSES = {"squared_error": MSELoss, "huber": HuberLoss}


class _Perceptron(Network):
    """What both have: layers of weights, of features or of images."""

    _of_images = False
    _warns = True
    _auto_batch = 200
    _several = True
    _init = "he"

    def _shape_of(self, features: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
        return (features,) if shape is None else shape

    def _build(self, shape: tuple[int, ...], classes: int) -> Sequential:
        hidden = sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        return MLP((int(np.prod(shape)), *hidden, classes), self.activation, self.dropout, self._init)

    @property
    def _linears(self) -> list[Linear]:
        return [layer for layer in self.model_.layers.values() if isinstance(layer, Linear)]

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weights of each layer, (inputs, outputs)."""
        return [self.model_.flat.backend.to_numpy(layer.weight.value) for layer in self._linears]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The biases of each layer, (outputs,)."""
        biases = [layer.bias for layer in self._linears if layer.bias is not None]
        return [self.model_.flat.backend.to_numpy(bias.value) for bias in biases]

    @property
    def n_layers_(self) -> int:
        """The number of layers, the inputs included."""
        return len(self._linears) + 1


class MLPClassifier(NetworkClassifier, _Perceptron):
    """A multilayer perceptron, with the parameters and attributes of scikit-learn's.

    Features are standardised by the mean and deviation of those in ``fit``. uint8 images, (n, H, W), (n, H, W, C) or
    flat with `image_shape`, are standardised per pixel and can be augmented. y may be an indicator matrix, (n, labels)
    of 0 and 1: the labels of a row are then predicted independently of each other.

    Args:
        hidden_layer_sizes, solver (``adam``, ``sgd``, ``adamw``), alpha, batch_size, learning_rate_init, max_iter,
            random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction,
            beta_1, beta_2, n_iter_no_change: as in scikit-learn.
        activation: one of :data:`gpunet.nn.ACTIVATIONS`.
        dropout: probability of dropping a hidden unit.
        class_weight: None, ``balanced`` or a dictionary from labels to weights.
        augment: a dictionary of ``flip``, ``shift`` and ``cutout``; see :class:`gpunet.data.Loader`.
        image_shape: (H, W) or (H, W, C) of rows that are images.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; None: :func:`gpunet.get_backend`'s choice.
        precision: on a GPU, ``float32`` or ``tf32``.

    >>> from gpunet.sklearn import MLPClassifier
    >>> X, y = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]] * 5), np.array(["no", "yes", "yes", "no"] * 5)
    >>> classifier = MLPClassifier((32,), max_iter=500, tol=0.01, random_state=0).fit(X, y)
    >>> classifier.predict([[1, 1], [0, 1]])
    array(['no', 'yes'], dtype='<U3')
    >>> classifier.predict_proba([[1, 1]]).shape
    (1, 2)
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate_init: float = 1e-3,
        max_iter: int = 200,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _Perceptron):
    """A multilayer perceptron that predicts numbers, with the parameters and attributes of scikit-learn's.

    Features are standardised as by :class:`MLPClassifier`, and so are the targets: ``loss_`` is of these, predictions
    are in the units of y. y may have several columns.

    Args:
        loss: ``squared_error``, or ``huber``, for which outliers count less.
        others: as for :class:`MLPClassifier`; early stopping holds out rows for R2.

    >>> from gpunet.sklearn import MLPRegressor
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor((16,), max_iter=300, random_state=0).fit(X, 3 * X[:, 0] + 1)
    >>> bool(abs(model.predict([[0.5]])[0] - 2.5) < 0.2)
    True
    """

    _numeric = True
    _init = "xavier_uniform"  # the outputs begin near the mean of the targets
    _scaling: TargetScaling
    n_outputs_: int

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate_init: float = 1e-3,
        max_iter: int = 200,
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
        loss: str = "squared_error",
        augment: Any = None,
        image_shape: Sequence[int] | None = None,
        device: str | None = None,
        precision: str = "float32",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
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
        self.loss = loss
        self.augment = augment
        self.image_shape = image_shape
        self.device = device
        self.precision = precision

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _encode(self, y: np.ndarray, *, again: bool) -> np.ndarray:
        columns = 1 if y.ndim == 1 else y.shape[1]
        if again and columns != self.n_outputs_:
            raise ConfigError(f"the training goes on with {self.n_outputs_} target(s), got {columns}: fit anew")
        self.n_outputs_, self.out_activation_ = columns, "identity"
        return y.reshape(len(y), -1).astype(np.float64)

    def _start(self, rows: np.ndarray, targets: np.ndarray) -> None:
        super()._start(rows, targets)
        self._scaling = TargetScaling.of(targets)

    def _loader(self, rows: np.ndarray, targets: np.ndarray, weight: np.ndarray | None) -> Loader:
        return super()._loader(rows, targets, weight).standardized(self._scaling)

    def _loss(self, targets: np.ndarray) -> Loss:
        if self.loss not in _LOSSES:
            raise ConfigError(f"loss must be one of {', '.join(_LOSSES)}; got {self.loss!r:.80}")
        return _LOSSES[self.loss]()

    def _score_of(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        return METRICS["r2"]()(self._scaling.original(outputs), targets, weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One pass over X and y, after those before; the first call's rows say how all are standardised.

        Raises: as :meth:`fit`.
        """
        return self._pass(X, y, sample_weight, lambda y, first: self._encode(y, again=not first))

    def predict(self, X: Any) -> np.ndarray:
        """The targets of each row or image, float64 (n,), or (n, targets) if there are several."""
        check_is_fitted(self)
        found = self._scaling.original(self._outputs(self._rows(X, reset=False)))
        return found[:, 0] if self.n_outputs_ == 1 else found
