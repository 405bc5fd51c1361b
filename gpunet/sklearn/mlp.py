"""The multilayer perceptron as an estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.models import MLP
from gpunet.nn import Linear, Sequential
from gpunet.sklearn.base import NetworkClassifier, sizes


class MLPClassifier(NetworkClassifier):
    """A multilayer perceptron, with the parameters and attributes of scikit-learn's.

    Features are standardised by the mean and deviation of those in ``fit``. uint8 images, (n, H, W), (n, H, W, C) or
    flat with `image_shape`, are standardised per pixel and can be augmented.

    Args:
        hidden_layer_sizes, solver (``adam``, ``sgd``, ``adamw``), alpha, batch_size, learning_rate_init, max_iter,
            random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction,
            beta_1, beta_2, n_iter_no_change: as in scikit-learn.
        activation: one of :data:`gpunet.nn.ACTIVATIONS`.
        dropout: probability of dropping a hidden unit.
        class_weight: None, ``balanced`` or a dictionary from labels to weights. There are no weights of single rows.
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

    _of_images = False
    _warns = True
    _auto_batch = 200

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

    def _shape_of(self, features: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
        return (features,) if shape is None else shape

    def _build(self, shape: tuple[int, ...], classes: int) -> Sequential:
        hidden = sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        return MLP((int(np.prod(shape)), *hidden, classes), self.activation, self.dropout)

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
