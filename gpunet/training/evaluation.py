"""Evaluation of a model on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gpunet import ops
from gpunet.backend import Array
from gpunet.data.loader import Loader
from gpunet.nn import CrossEntropyLoss, ForwardContext, Layer

EVALUATION_BATCH = 1000
"""Images per evaluation batch. It is fixed, so that all callers get bit-identical results."""

BLOCK, PREDICTION_BATCH = 32, 1024
"""Predictions are made in batches that are filled up to a multiple of BLOCK rows, so that on the CPU those of a row
have the same bits whatever rows are beside it: products of few rows are summed in another order."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and number of correct predictions over a data set, and the class probabilities if requested."""

    loss: float
    correct: int
    total: int
    probabilities: np.ndarray | None = None
    """(total, classes), or None."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.total


class Captured:
    """A function of a batch and its labels, for all batches of `loader`; on a GPU, a CUDA graph for each batch size.

    It may only call ops on arrays of the device, and return a tuple of arrays.
    """

    def __init__(
        self,
        function: Callable[[Array, Array], tuple[Array, ...]],
        loader: Loader,
        batch: int | None = None,
    ) -> None:
        self._function, self._loader, self._batch = function, loader, batch or EVALUATION_BATCH
        self._start = loader.backend.zeros(1, np.int64)
        self._steps: dict[tuple[int, str], Callable[[], tuple[Array, ...]]] = {}

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """What the function returns for each batch, on the host."""
        backend, size = self._loader.backend, self._loader.size
        for start in range(0, size, self._batch):
            step = self._step(min(self._batch, size - start))
            self._loader.prepare(start, min(self._batch, size - start))
            with backend.active():
                backend.assign(self._start, start)
                found = tuple(map(backend.to_numpy, step()))
            yield found

    def _step(self, size: int) -> Callable[[], tuple[Array, ...]]:
        function, loader, first = self._function, self._loader, self._start
        key = size, loader.backend.precision  # what is captured has the precision of its time
        if key not in self._steps:
            self._steps[key] = loader.backend.capture(lambda: function(*loader.batch(first, size)))
        return self._steps[key]


class Evaluator:
    """:func:`evaluate` for a `model` and data that are evaluated again and again, as after each epoch."""

    def __init__(self, model: Layer, loader: Loader, *, keep_probabilities: bool = False) -> None:
        def batch(x: Array, labels: Array) -> tuple[Array, ...]:
            logits, _ = model.forward(x, ForwardContext())
            loss, _ = criterion(logits, labels)
            found = loss, ops.count_correct(logits, labels)
            return (*found, ops.softmax(logits)) if keep_probabilities else found

        criterion = CrossEntropyLoss()
        self._loader, self._batches = loader, Captured(batch, loader)

    def __call__(self, on_batch: Callable[[int], None] | None = None) -> Evaluation:
        loss, correct, done, size = 0.0, 0, 0, self._loader.size
        kept: list[np.ndarray] = []
        for batch_loss, batch_correct, *probabilities in self._batches:
            images = min(EVALUATION_BATCH, size - done)
            loss += float(batch_loss) * images
            correct += int(batch_correct)
            done += images
            kept += probabilities
            if on_batch is not None:
                on_batch(done)
        return Evaluation(loss / size, correct, size, np.concatenate(kept) if kept else None)


def evaluate(
    model: Layer, loader: Loader, *, keep_probabilities: bool = False, on_batch: Callable[[int], None] | None = None
) -> Evaluation:
    """Run `model` in inference mode over all of `loader`; the loss is plain cross-entropy.

    `on_batch` is called after each batch, with the number of images processed so far.
    """
    return Evaluator(model, loader, keep_probabilities=keep_probabilities)(on_batch)


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

    loader: makes the loader of such rows.
    """
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % BLOCK, axis=0)])
    return extract(model, loader(filled), PREDICTION_BATCH)[: len(rows)]
