"""What the estimators share: checks of parameters and data, training, prediction."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from gpunet import ops
from gpunet.backend import Backend
from gpunet.checks import check_int, check_number
from gpunet.data.loader import Loader
from gpunet.devices import get_backend
from gpunet.errors import ConfigError, ShapeError
from gpunet.nn import BCEWithLogitsLoss, CrossEntropyLoss, Sequential
from gpunet.nn.loss import Loss
from gpunet.sklearn.fitting import Progress, Recipe, Stopping, passes
from gpunet.sklearn.inputs import Preparation, checked_image_shape, rows_of
from gpunet.training.evaluation import sigmoid
from gpunet.training.metrics import METRICS

AUGMENTATIONS = ("flip", "shift", "cutout")


class Network(BaseEstimator):
    """A network trained on labelled rows or images; the base of all estimators.

    A subclass has the parameters as attributes, and builds its model in :meth:`_build`.

    >>> from gpunet.sklearn import MLPClassifier
    >>> X, y = np.float32([[0], [1]] * 20), np.array(["low", "high"] * 20)
    >>> classifier = MLPClassifier(max_iter=50, tol=0.1, random_state=0).fit(X, y)
    >>> classifier.classes_, classifier.model_.output_shape((1,))
    (array(['high', 'low'], dtype='<U4'), (2,))
    """

    image_shape: Sequence[int] | None = None
    augment: Any = None
    warm_start: bool = False
    _of_images = True
    _several, _numeric = False, False
    """Whether y may have several columns, and whether it is numbers."""
    image_shape_: tuple[int, ...] | None
    classes_: np.ndarray
    model_: Any  # initialised, so its flat buffers are there
    _progress: Progress

    # --- what a subclass says ---------------------------------------------------------------------------------------

    def _build(self, shape: tuple[int, ...], classes: int) -> Sequential:
        raise NotImplementedError

    def _shape_of(self, features: int, shape: tuple[int, ...] | None) -> tuple[int, ...]:
        """The shape of an input: that of the images, or of the rows."""
        return shape if shape is not None else (1, features, 1)

    def _encode(self, y: np.ndarray, *, again: bool) -> np.ndarray:
        """y as targets of a loader: class indices int32 (n,), or numbers (n, K).

        again: whether the training goes on.
        """
        raise NotImplementedError

    def _loss(self, targets: np.ndarray) -> Loss:
        raise NotImplementedError

    def _score_of(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        """How good `outputs` are for held-out rows; more is better."""
        raise NotImplementedError

    # --- data -------------------------------------------------------------------------------------------------------

    def _rows(self, X: Any, y: Any = None, *, reset: bool) -> Any:
        """X as (n, F), and y if given; with `reset`, remembers the number of features and the shape of the images."""
        given = checked_image_shape(self.image_shape)
        rows, shape = rows_of(X, given if reset else self.image_shape_)
        if y is None:
            rows = validate_data(self, rows, reset=reset)
        else:
            rows, y = validate_data(self, rows, y, reset=reset, multi_output=self._several, y_numeric=self._numeric)
            y = y.toarray() if hasattr(y, "toarray") else y
            if y.ndim == 2 and y.shape[1] == 1:
                y = column_or_1d(y, warn=True)
        if shape is not None and int(np.prod(shape)) != rows.shape[1]:
            raise ShapeError(f"rows of {rows.shape[1]} features are no images of image_shape {shape}")
        if reset:
            self.image_shape_ = shape
        return rows if y is None else (rows, y)

    def _augmentation(self) -> dict[str, Any]:
        if self.augment is not None and not isinstance(self.augment, dict):
            raise ConfigError(f"augment must be a dictionary of {', '.join(AUGMENTATIONS)}, got {self.augment!r:.80}")
        options = dict(self.augment or {})
        unknown = [name for name in options if name not in AUGMENTATIONS]
        if unknown:
            raise ConfigError(f"augment must be a dictionary of {', '.join(AUGMENTATIONS)}, got {', '.join(unknown)}")
        return options

    def _backend(self) -> Backend:
        return get_backend(self.device)

    # --- training ---------------------------------------------------------------------------------------------------

    def _checked(self, rows: int) -> tuple[Recipe, Stopping]:
        batch = self.batch_size
        if not (isinstance(batch, str) and batch == "auto"):
            batch = check_int("batch_size", batch, low=1)
        else:
            batch = self._auto_batch
        batch = min(batch, rows)
        options = {
            "momentum": self.momentum,
            "nesterov": bool(self.nesterovs_momentum),
            "beta1": self.beta_1,
            "beta2": self.beta_2,
            # as in scikit-learn, whose penalty is divided by the number of rows in the batch
            "weight_decay": check_number("alpha", self.alpha, low=0) / (batch if self.solver != "adamw" else 1),
        }
        lr = check_number("learning_rate_init", self.learning_rate_init, low=0, low_open=True)
        check_number("validation_fraction", self.validation_fraction, low=0, high=1, low_open=True, high_open=True)
        stopping = Stopping(
            check_int("max_iter", self.max_iter, low=1),
            check_number("tol", self.tol, low=0),
            check_int("n_iter_no_change", self.n_iter_no_change, low=1),
        )
        return Recipe(batch, self.solver, lr, options, self.precision), stopping

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on X, (n, features), images (n, H, W) or (n, H, W, C), and their targets y.

        sample_weight: (n,), at least 0: how much each row counts in the loss and in the held-out score. Rows of weight
            0 are left out; all others count the same where features and targets are standardised.

        Raises:
            ValueError: the data or a parameter cannot be used; the message says why.
            DivergedError: the loss is not finite.
        """
        if y is None:
            raise ConfigError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        again = bool(self.warm_start) and hasattr(self, "model_")
        rows, y = self._rows(X, y, reset=not again)
        targets = self._encode(y, again=again)
        rows, targets, weight = self._weighted(rows, targets, sample_weight)
        recipe, stopping = self._checked(len(rows))
        if not again:
            self._start(rows, targets)
        self._progress.losses, self._progress.scores = [], []
        before = self._progress.epochs
        score = None
        if self.early_stopping:
            kept, held = train_test_split(
                np.arange(len(rows)),
                test_size=self.validation_fraction,
                random_state=self._progress.seed,
                stratify=targets if targets.ndim == 1 and np.bincount(targets).min() > 1 else None,
            )
            held_rows, held_targets = rows[held], targets[held]
            held_weight = np.ones(len(held)) if weight is None else weight[held]
            rows, targets, weight = rows[kept], targets[kept], None if weight is None else weight[kept]

            def score() -> float:
                return self._score_of(self._outputs(held_rows), held_targets, held_weight)

        stopped = self._train(self._loader(rows, targets, weight), recipe, stopping, score)
        self.n_iter_ = self._progress.epochs - before
        self._finish()
        if not stopped and self._warns:
            warnings.warn(
                f"the maximum of {stopping.max_iter} iterations was reached before the training converged",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _pass(self, X: Any, y: Any, sample_weight: Any, encode: Callable[[np.ndarray, bool], np.ndarray]) -> Self:
        """One pass over X and y; `encode` makes targets of y, for the first pass or a later one."""
        first = not hasattr(self, "model_")
        if self.early_stopping:
            raise ConfigError("partial_fit makes one pass, so early_stopping cannot end it: set it to False")
        rows, y = self._rows(X, y, reset=first)
        rows, targets, weight = self._weighted(rows, encode(y, first), sample_weight)
        recipe, _ = self._checked(len(rows))
        if first:
            self._start(rows, targets)
        self._train(self._loader(rows, targets, weight), recipe, Stopping(1, 0.0, 1), None)
        self.n_iter_ = self._progress.epochs
        self._finish()
        return self

    def _weighted(
        self, rows: np.ndarray, targets: np.ndarray, sample_weight: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows, targets and weights (n,), float64, without the rows that do not count; None if all count the same."""
        if sample_weight is None:
            return rows, targets, None
        weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
        counts = weight > 0
        if not counts.any():
            raise ConfigError("sample_weight is 0 for all rows: at least one must count")
        return rows[counts], targets[counts], weight[counts]

    def _start(self, rows: np.ndarray, targets: np.ndarray) -> None:
        """A new model, for training rows that it is prepared for."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        shape = self._shape_of(rows.shape[1], self.image_shape_)
        images = self.image_shape_ is not None
        self._preparation = Preparation.of(rows, shape, images=images, per_channel=self._of_images)
        self._progress = Progress(seed)
        outputs = len(self.classes_) if targets.ndim == 1 else targets.shape[1]
        self.model_ = self._build(shape, outputs).initialize(seed, device=self._backend())

    def _loader(self, rows: np.ndarray, targets: np.ndarray, weight: np.ndarray | None) -> Loader:
        options = self._augmentation() if weight is None else {"sample_weight": weight, **self._augmentation()}
        return self._preparation.loader(rows, targets, self.model_.flat.backend, **options)

    def _train(self, loader: Loader, recipe: Recipe, stopping: Stopping, score: Any) -> bool:
        loss = self._loss(loader.targets)
        return passes(self.model_, loader, recipe, self._progress, stopping, loss, score=score, say=self._say)

    def _say(self, text: str) -> None:
        if self.verbose:
            print(text)

    def _finish(self) -> None:
        done = self._progress
        self.t_, self.loss_curve_, self.loss_ = done.steps, list(done.losses), done.losses[-1]
        held = bool(done.scores)
        self.validation_scores_ = list(done.scores) if held else None
        self.best_validation_score_ = max(done.scores) if held else None
        self.best_loss_ = None if held else min(done.losses)

    # --- prediction -------------------------------------------------------------------------------------------------

    def _outputs(self, rows: np.ndarray, last: Any = None) -> np.ndarray:
        return self._preparation.outputs(self.model_, rows, self.model_.flat.backend, last)


class ClassNetwork(Network):
    """A network trained on classes or, where it may be, on several labels of each row."""

    _labels = False
    """Whether it was trained on several labels, an indicator matrix."""

    def _encode(self, y: np.ndarray, *, again: bool) -> np.ndarray:
        if self._several and type_of_target(y) == "multilabel-indicator":
            return self._encode_labels(y, again)
        check_classification_targets(y)
        if y.ndim == 2:
            raise ConfigError(f"y must be one class for each row, or an indicator matrix of 0 and 1, got {y.shape}")
        classes, labels = np.unique(y, return_inverse=True)
        if again and (self._labels or not np.array_equal(classes, self.classes_)):
            raise ConfigError(f"warm_start goes on with the classes {self.classes_}, got {classes}: fit anew")
        if len(classes) < 2:
            raise ConfigError(f"y has one class, expected at least two: classes {classes}")
        self.classes_, self._labels = classes, False
        return labels.astype(np.int32)

    def _encode_labels(self, y: np.ndarray, again: bool) -> np.ndarray:
        if self.class_weight is not None:
            raise ConfigError("class_weight is for one class a row, but y is an indicator matrix: leave it out")
        if again and not (self._labels and len(self.classes_) == y.shape[1]):
            raise ConfigError(
                f"the training goes on with the classes {self.classes_}, got {y.shape[1]} labels: fit anew"
            )
        self.classes_, self._labels = np.arange(y.shape[1]), True
        return y.astype(np.float64)

    def _loss(self, targets: np.ndarray) -> Loss:
        return BCEWithLogitsLoss() if self._labels else CrossEntropyLoss(weight=self._weights(targets))

    def _score_of(self, outputs: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
        metric = METRICS["subset_accuracy" if self._labels else "accuracy"]()
        return metric(outputs, targets, weight)

    def _weights(self, labels: np.ndarray) -> Any:
        """The weights of the classes in the loss, on the device; None if all are 1."""
        if self.class_weight is None:
            return None
        backend = self.model_.flat.backend
        known = self.classes_[labels]
        weights = np.ones(len(self.classes_))
        present = np.isin(self.classes_, known)
        weights[present] = compute_class_weight(self.class_weight, classes=self.classes_[present], y=known)
        return backend.asarray(weights, "float32")

    def _finish(self) -> None:
        super()._finish()
        self.n_outputs_, self.out_activation_ = len(self.classes_), "logistic" if self._labels else "softmax"


class NetworkClassifier(ClassifierMixin, ClassNetwork):
    """Predictions of classes. Those of a row do not depend on the rows beside it, on the CPU to the last bit.

    >>> from gpunet.sklearn import MLPClassifier
    >>> X, y = np.float32([[0], [1]] * 20), np.array(["low", "high"] * 20)
    >>> classifier = MLPClassifier(random_state=0)
    >>> for passes in range(20):
    ...     classifier = classifier.partial_fit(X, y)
    >>> classifier.predict([[1]]), classifier.n_iter_
    (array(['high'], dtype='<U4'), 20)
    """

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One pass over X and y, after those before; the first call names all `classes`, unless all are in y.

        Raises: as :meth:`fit`; ValueError if a label is not one of the classes.
        """

        def encode(y: np.ndarray, first: bool) -> np.ndarray:
            if self._several and type_of_target(y) == "multilabel-indicator":
                return self._encode_labels(y, not first)
            check_classification_targets(y)
            if first:
                self.classes_, self._labels = unique_labels(y) if classes is None else unique_labels(classes), False
            elif classes is not None and not np.array_equal(unique_labels(classes), self.classes_):
                raise ConfigError(f"classes are {self.classes_} since the first call of partial_fit, got {classes}")
            unknown = np.setdiff1d(y, self.classes_)
            if len(unknown) or y.ndim == 2 or self._labels:
                raise ConfigError(f"y has labels that are not in classes {self.classes_}: {unknown[:10]}")
            return np.searchsorted(self.classes_, y).astype(np.int32)

        return self._pass(X, y, sample_weight, encode)

    def decision_function(self, X: Any) -> np.ndarray:
        """The logits, float32 (n, classes); of two classes, their difference (n,)."""
        check_is_fitted(self)
        logits = self._outputs(self._rows(X, reset=False))
        return logits if logits.shape[1] != 2 or self._labels else logits[:, 1] - logits[:, 0]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, or of each label, float32 (n, classes), in the order of ``classes_``."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        if self._labels:
            return sigmoid(self._outputs(rows)).astype(np.float32)
        return self._outputs(rows, ops.softmax)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of :meth:`predict_proba`."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row or image, one of ``classes_``; or the indicator matrix of its labels."""
        check_is_fitted(self)
        logits = self._outputs(self._rows(X, reset=False))
        return (logits > 0).astype(np.int64) if self._labels else np.asarray(self.classes_[logits.argmax(1)])


def sizes(name: str, value: Any) -> tuple[int, ...]:
    """An int or a sequence of ints, each at least 1, as a tuple."""
    if isinstance(value, Integral):
        value = (value,)
    try:
        return tuple(check_int(name, size, low=1) for size in value)
    except TypeError:
        raise ConfigError(f"{name} must be a sequence of integers, got {value!r}") from None
