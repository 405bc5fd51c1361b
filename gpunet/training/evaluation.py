"""Evaluation of a model on a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpunet import ops
from gpunet.backend import Array
from gpunet.data.loader import Loader
from gpunet.nn import ForwardContext, Layer, SoftmaxCrossEntropy

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


def evaluate(
    model: Layer, loader: Loader, *, keep_probabilities: bool = False, on_batch: Callable[[int], None] | None = None
) -> Evaluation:
    """Run `model` in inference mode over all of `loader`; the loss is plain cross-entropy.

    `on_batch` is called after each batch, with the number of images processed so far.
    """
    loss, correct, done = 0.0, 0, 0
    criterion = SoftmaxCrossEntropy()
    kept: list[np.ndarray] = []
    for x, labels in loader.batches(EVALUATION_BATCH):
        logits, _ = model.forward(x, ForwardContext())
        batch_loss, _ = criterion(logits, labels)
        loss += float(batch_loss) * len(labels)
        correct += int(ops.count_correct(logits, labels))
        done += len(labels)
        if keep_probabilities:
            kept.append(loader.backend.to_numpy(ops.softmax(logits)))
        if on_batch is not None:
            on_batch(done)
    return Evaluation(loss / loader.size, correct, loader.size, np.concatenate(kept) if kept else None)


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


def extract(model: Callable[[Array], Array], loader: Loader, batch: int = EVALUATION_BATCH) -> np.ndarray:
    """The outputs of `model` (a function of a batch) over all of `loader`, on the host."""
    return np.concatenate([loader.backend.to_numpy(model(x)) for x, _ in loader.batches(batch)])


def predictions(
    model: Callable[[Array], Array], rows: np.ndarray, loader: Callable[[np.ndarray], Loader]
) -> np.ndarray:
    """The outputs of `model` for `rows`, at least one, each independent of the rows beside it; see BLOCK.

    loader: makes the loader of such rows.
    """
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % BLOCK, axis=0)])
    return extract(model, loader(filled), PREDICTION_BATCH)[: len(rows)]
