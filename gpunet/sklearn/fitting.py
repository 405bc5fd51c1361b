"""The training loop of the estimators: passes over the data until the loss, or a held-out score, gets no better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from gpunet import ops, optim
from gpunet.data.loader import Loader
from gpunet.errors import DivergedError
from gpunet.nn import ForwardContext, Layer
from gpunet.nn.loss import Loss
from gpunet.training.diagnose import is_finite


@dataclass
class Progress:
    """The state of a training that may go on: what is counted and recorded, and the optimiser's arrays on the host."""

    seed: int
    epochs: int = 0
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    slots: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Recipe:
    """How passes are made."""

    batch_size: int
    solver: str
    lr: float
    options: dict[str, Any]
    """Of the optimiser."""
    precision: str = "float32"


@dataclass(frozen=True)
class Stopping:
    """When passes end: `tol` is the least gain that counts, `patience` the passes without one."""

    max_iter: int
    tol: float
    patience: int


def passes(
    model: Layer,
    train: Loader,
    recipe: Recipe,
    progress: Progress,
    stopping: Stopping,
    loss: Loss,
    *,
    score: Callable[[], float] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Make up to ``stopping.max_iter`` passes over `train`, and record them in `progress`; whether they ended before.

    With `score`, of held-out data, the model gets back the weights that had the best one.

    Raises:
        DivergedError: a loss or a weight is not finite; the model is as it was before that pass.
    """
    flat = model.flat
    assert flat is not None
    backend = flat.backend
    optimizer = optim.create(recipe.solver, **recipe.options)
    optimizer.bind(flat)
    if progress.slots is not None:
        optimizer.load_slots(progress.slots)
    best, waited, kept, stopped = -np.inf, 0, None, False
    with backend.active(), backend.use_precision(recipe.precision):
        for _ in range(stopping.max_iter):
            before = backend.copy(flat.values), backend.copy(flat.state)
            counts = progress.epochs, progress.steps
            try:
                value = one_pass(model, train, recipe, progress, optimizer, loss)
            except DivergedError:
                backend.assign(flat.values, before[0])
                backend.assign(flat.state, before[1])
                progress.epochs, progress.steps = counts
                raise
            gained, shown = -value, f"loss {value:.6f}"
            if score is not None:
                gained = score()
                progress.scores.append(gained)
                shown += f", validation score {gained:.4f}"
            say(f"Iteration {progress.epochs}, {shown}")
            waited = 0 if gained > best + stopping.tol else waited + 1
            if gained > best:
                best = gained
                if score is not None:
                    kept = backend.copy(flat.values), backend.copy(flat.state)
            if waited > stopping.patience:
                stopped = True
                break
    if kept is not None:
        backend.assign(flat.values, kept[0])
        backend.assign(flat.state, kept[1])
    progress.slots = {name: backend.to_numpy(slot).copy() for name, slot in optimizer.slots().items()}
    return stopped


def one_pass(
    model: Layer,
    train: Loader,
    recipe: Recipe,
    progress: Progress,
    optimizer: optim.Optimizer,
    loss: Loss,
) -> float:
    """One pass over all of `train`, in shuffled batches whose sizes differ by one at most; its mean loss."""
    flat = model.flat
    assert flat is not None
    train.shuffle(progress.seed, progress.epochs)
    count = -(-train.size // recipe.batch_size)
    bounds = [train.size * index // count for index in range(count + 1)]
    total: Any = 0.0
    for start, end in pairwise(bounds):
        step = progress.steps
        x, targets = train.training_batch(start, end - start, seed=progress.seed, step=step)
        weights = train.training_weights(start, end - start)
        ctx = ForwardContext(training=True, seed=progress.seed, step=step, needs_input_grad=False)
        outputs, backward = model.forward(x, ctx)
        value, gradient = loss(outputs, targets, weights)
        backward(gradient)
        scale, _ = ops.gradient_scale(flat.gradients, value)
        progress.steps += 1
        optimizer.update(recipe.lr, progress.steps, scale)
        total = total + value * (end - start)
    progress.epochs += 1
    mean = float(total) / train.size
    if not np.isfinite(mean) or not is_finite(flat.values):
        raise DivergedError(
            f"training diverged in iteration {progress.epochs}: the loss is {mean}; use a lower learning_rate_init, or "
            "check the data"
        )
    progress.losses.append(mean)
    return mean
