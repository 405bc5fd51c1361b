"""Evaluation of a model on a data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet import ops
from gpunet.backend import Array
from gpunet.data.loader import Loader
from gpunet.data.targets import TargetScaling
from gpunet.errors import ConfigError
from gpunet.nn import ForwardContext, Layer
from gpunet.nn.loss import Loss
from gpunet.parallel.communicator import Communicator, Serial
from gpunet.tasks import CLASSIFICATION, MULTILABEL, REGRESSION
from gpunet.training.metrics import Metric, metrics_of
from gpunet.training.objective import check_targets, loss_of, plain_loss

EVALUATION_BATCH = 1000
"""Images per evaluation batch. It is fixed, so that all callers get bit-identical results."""

BLOCK, PREDICTION_BATCH = 32, 1024
"""Predictions are made in batches that are filled up to a multiple of BLOCK rows, so that on the CPU those of a row
have the same bits whatever rows are beside it: products of few rows are summed in another order."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and metrics over a data set, and what was predicted.

    >>> gn.training.Evaluation(loss=0.3, correct=45, total=50, scores={"accuracy": 0.9}).accuracy
    0.9
    """

    loss: float
    correct: int
    """Number of rows whose class was predicted; 0 where no classes are."""
    total: int
    probabilities: np.ndarray | None = None
    """(total, classes), those of the classes, or of each label, or None."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The metrics by name; for a regression in the units of the targets."""
    predictions: np.ndarray | None = None
    """float64 (total, K), the numbers that a regression predicts; None for other tasks."""

    @property
    def accuracy(self) -> float:
        """The share of rows whose class was predicted.

        Raises:
            ConfigError: no classes were predicted.
        """
        if "accuracy" not in self.scores:
            raise ConfigError(f"there is no accuracy, but {', '.join(self.scores)}: see Evaluation.scores")
        return self.scores["accuracy"]


class Captured:
    """A function of a batch and its targets (`weighted`: and weights), for all batches of `loader`.

    On a GPU, it is a CUDA graph for each batch size.

    It may only call ops on arrays of the device, and return a tuple of arrays.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Array, ...]],
        loader: Loader,
        batch: int | None = None,
        *,
        weighted: bool = False,
    ) -> None:
        self._weighted = weighted
        self._function, self._loader, self._batch = function, loader, batch or EVALUATION_BATCH
        self._start = loader.backend.zeros(1, np.int64)
        self._steps: dict[tuple[int, str], Callable[[], tuple[Array, ...]]] = {}

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """What the function returns for each batch, on the host."""
        return self.share(0, 1)

    def share(self, rank: int, ranks: int) -> Iterator[tuple[np.ndarray, ...]]:
        """The same for batch number `rank` and every `ranks`-th after it."""
        backend, size = self._loader.backend, self._loader.size
        # Reading waits for the device: meanwhile the next batches are queued, and what they return is copied, because
        # a captured step returns the same arrays each time.
        queued: deque[tuple[Array, ...]] = deque()
        for start in range(rank * self._batch, size, ranks * self._batch):
            step = self._step(min(self._batch, size - start))
            self._loader.prepare(start, min(self._batch, size - start))
            with backend.active(), backend.compile_together(step):
                backend.assign(self._start, start)
                found = step()
                queued.append(found if backend.steps_between_reads == 1 else tuple(map(backend.copy, found)))
            if len(queued) == backend.steps_between_reads:
                yield tuple(map(backend.to_numpy, queued.popleft()))
        while queued:
            yield tuple(map(backend.to_numpy, queued.popleft()))

    def _step(self, size: int) -> Callable[[], tuple[Array, ...]]:
        function, loader, first = self._function, self._loader, self._start
        key = size, loader.backend.precision  # what is captured has the precision of its time
        if key not in self._steps:
            weights = (lambda: (loader.weights(first, size),)) if self._weighted else tuple
            self._steps[key] = loader.backend.capture(lambda: function(*loader.batch(first, size), *weights()))
        return self._steps[key]


class Evaluator:
    """:func:`evaluate` for a `model` and data that are evaluated again and again, as after each epoch.

    The ranks of a `communicator` share the batches, and all get the evaluation.
    """

    def __init__(
        self,
        model: Layer,
        loader: Loader,
        communicator: Communicator | None = None,
        *,
        loss: Loss | str | None = None,
        metrics: Sequence[str | Metric] | str | Metric | None = None,
        keep_probabilities: bool = False,
    ) -> None:
        if loss is None and loader.outputs is not None and model.target_scaling is None:
            raise ConfigError('the targets are numbers, so evaluate needs the loss, such as loss="bce_with_logits"')
        criterion = plain_loss(loss_of(loss or ("cross_entropy" if loader.outputs is None else "mse")))
        check_targets(criterion, loader)
        self._task, self._metrics = criterion.task, metrics_of(metrics, criterion.task)
        classes = self._task == CLASSIFICATION
        self._scaling: TargetScaling | None = None
        if self._task == REGRESSION and model.target_scaling is not None:
            self._scaling = model.target_scaling
            loader = loader.standardized(model.target_scaling)
        # What the device counts is enough for the accuracy; all else is computed here.
        self._outputs = not classes or len(self._metrics) > 1 or loader.sample_weight is not None
        self._probable = keep_probabilities and self._task != REGRESSION
        keep_outputs = self._outputs  # not self, below: what refers to itself is not freed at once

        def batch(x: Array, targets: Array, weights: Array | None) -> tuple[Array, ...]:
            outputs, _ = model.forward(x, ForwardContext())
            loss = criterion(outputs, targets, weights)[0]
            found: tuple[Array, ...] = (loss, ops.count_correct(outputs, targets)) if classes else (loss,)
            if keep_outputs:
                found = (*found, outputs)
            if keep_probabilities and classes:
                found = (*found, ops.softmax(outputs))
            return found

        self._loader = loader
        self._communicator: Communicator = communicator or Serial()
        self._batches = Captured(lambda x, y: batch(x, y, None), loader)
        if loader.sample_weight is not None:
            self._batches = Captured(batch, loader, weighted=True)

    def __call__(self, on_batch: Callable[[int], None] | None = None) -> Evaluation:
        loss, correct, done, size = 0.0, 0, 0, self._loader.size
        weights = self._loader.sample_weight
        outputs: list[np.ndarray] = []
        probabilities: list[np.ndarray] = []
        for batch_loss, *found in self._results():
            images = min(EVALUATION_BATCH, size - done)
            share: Any = images if weights is None else float(weights[done : done + images].sum())
            loss += float(batch_loss) * share if share else 0.0  # the mean of rows without any weight is NaN
            done += images
            if self._task == CLASSIFICATION:
                correct += int(found.pop(0))
            if self._outputs:
                outputs.append(found.pop(0))
            probabilities += found
            if on_batch is not None:
                on_batch(done)
        mean = loss / (size if weights is None else float(weights.sum()))
        return self._found(mean, correct, outputs, np.concatenate(probabilities) if probabilities else None)

    def _results(self) -> Iterable[tuple[np.ndarray, ...]]:
        ranks = self._communicator.size
        if ranks == 1:
            return self._batches
        shares = self._communicator.exchange(list(self._batches.share(self._communicator.rank, ranks)))
        return [shares[index % ranks][index // ranks] for index in range(sum(map(len, shares)))]

    def _found(self, loss: float, correct: int, kept: list[np.ndarray], probabilities: np.ndarray | None) -> Evaluation:
        size = self._loader.size
        if not kept:
            return Evaluation(loss, correct, size, probabilities, {"accuracy": correct / size})
        outputs = np.concatenate(kept).astype(np.float64)
        if self._scaling is not None:
            outputs = self._scaling.original(outputs)
        weights = self._loader.sample_weight
        weight = np.ones(size) if weights is None else weights
        finite = np.isfinite(outputs).all()
        scores = {
            metric.name: metric(outputs, self._loader.targets, weight) if finite else float("nan")
            for metric in self._metrics
        }
        if weights is None and self._task == CLASSIFICATION:
            scores["accuracy"] = correct / size
        if self._probable and self._task == MULTILABEL:
            probabilities = sigmoid(outputs)
        return Evaluation(loss, correct, size, probabilities, scores, outputs if self._task == REGRESSION else None)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probabilities of labels by their logits, float64."""
    positive = np.exp(-np.abs(logits.astype(np.float64)))
    return np.asarray(np.where(logits >= 0, 1.0, positive) / (1 + positive))


def evaluate(
    model: Layer,
    loader: Loader,
    *,
    loss: Loss | str | None = None,
    metrics: Sequence[str | Metric] | str | Metric | None = None,
    keep_probabilities: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run `model` in inference mode over all of `loader`.

    Args:
        loss: a loss or a name in :data:`gpunet.nn.LOSSES`; by default cross-entropy, or the squared error for a model
            that was trained for a regression. Cross-entropy is plain, without label smoothing and class weights; a
            regression's is that of standardised numbers.
        metrics: metrics or names in :data:`gpunet.training.METRICS`; by default those of the task.
        on_batch: called after each batch, with the number of images processed so far.

    Rows count by the loader's ``sample_weight``, if it has one.

    Raises:
        ConfigError: loss, metrics and targets do not fit each other.

    >>> model = gn.models.MLP((1, 2), init=gn.nn.Constant(0.0)).initialize()
    >>> loader = gn.data.Loader(np.uint8([0, 255]).reshape(2, 1, 1, 1), [0, 1])
    >>> found = gn.training.evaluate(model, loader, keep_probabilities=True)
    >>> found.correct, found.total, round(float(np.exp(found.loss)), 5)  # both classes have probability 1/2
    (1, 2, 2.0)
    >>> found.probabilities
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    evaluator = Evaluator(model, loader, loss=loss, metrics=metrics, keep_probabilities=keep_probabilities)
    return evaluator(on_batch)


def with_mirror_images(model: Layer, loader: Loader, probabilities: np.ndarray) -> np.ndarray:
    """Class probabilities, (n, classes), averaged over each image and its mirror image (test-time augmentation).

    Meant for a model trained with mirrored images; others get worse with it.

    Args:
        model, loader: as for :func:`evaluate`; the loader must hold images, not features.
        probabilities: those of the original images, (n, classes), from :func:`evaluate`.
    """
    mirrored = evaluate(model, loader.mirrored(), keep_probabilities=True).probabilities
    assert mirrored is not None
    return np.asarray((probabilities + mirrored) / 2)


def extract(model: Callable[[Array], Array], loader: Loader, batch: int | None = None) -> np.ndarray:
    """The outputs of `model` (a function of a batch) over all of `loader`, on the host."""
    return np.concatenate([found for (found,) in Captured(lambda x, labels: (model(x),), loader, batch)])


def predictions(
    model: Callable[[Array], Array], rows: np.ndarray, loader: Callable[[np.ndarray], Loader]
) -> np.ndarray:
    """The outputs of `model` for `rows`, at least one, each independent of the rows beside it; see BLOCK.

    Args:
        loader: makes the loader of such rows.
    """
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % BLOCK, axis=0)])
    return extract(model, loader(filled), PREDICTION_BATCH)[: len(rows)]
