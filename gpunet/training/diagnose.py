"""Diagnosis of diverged training: the first non-finite value."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from gpunet.backend import Array
from gpunet.errors import DivergedError
from gpunet.nn import ForwardContext, Layer, Sequential
from gpunet.nn.loss import Loss
from gpunet.training.evaluation import EVALUATION_BATCH
from gpunet.training.objective import plain_loss

if TYPE_CHECKING:
    from gpunet.training.trainer import Trainer

NOT_FINITE_INPUT = "the input of the model is not finite"


def diverged(trainer: Trainer, index: int) -> DivergedError:
    """The error for a non-finite loss or gradient in step `index`, from 0, of the epoch; runs that step again."""
    number, seed = trainer.epoch * trainer.steps_per_epoch + index, trainer.config.seed
    where, size = None, trainer.batch_size // trainer.config.shards
    start = index * trainer.batch_size
    weights = trainer.train.training_weights(start, size)  # of the whole batch: rows have weights in one shard only
    train = copy.copy(trainer.train)
    train.serve(0, trainer.batch_size, trainer.batch_size)  # all rows, also where ranks share them
    for first in range(0, trainer.batch_size, size):
        batch = train.training_batch(start, size, seed=seed, step=number, first_row=first)
        ctx = ForwardContext(training=True, seed=seed, step=number, first_row=first)
        where = where or first_not_finite(trainer.model, *batch, weights, trainer.loss, ctx)
    where = where or "the norm of the gradients is not finite, although all gradients are"
    return DivergedError(
        f"training diverged in step {number + 1} (epoch {trainer.epoch + 1}, learning rate {trainer.lr:.3g}): {where}. "
        f"Use a lower --lr or --clip-norm, or check the data. {_model_is(trainer)}"
    )


def not_validated(trainer: Trainer) -> DivergedError:
    """The error for a validation loss that is not finite after an epoch whose training losses are."""
    epoch, where = trainer.epoch + 1, "it overflows in the sum over the batches"
    loss = plain_loss(trainer.loss)
    for x, targets in trainer.validation.batches(EVALUATION_BATCH):
        found = first_not_finite(trainer.model, x, targets, None, loss, ForwardContext(), gradients=False)
        if found is not None:
            where = found
            break
    if where == NOT_FINITE_INPUT:
        return DivergedError(
            f"the validation loss after epoch {epoch} is not finite: {where}. Check the data. {_model_is(trainer)}"
        )
    return DivergedError(
        f"training diverged in epoch {epoch}: the validation loss after it is not finite, {where}. "
        f"Use a lower --lr, --clip-norm, or check the data. {_model_is(trainer)}"
    )


def _model_is(trainer: Trainer) -> str:
    return f"The model is as it was {f'after epoch {trainer.epoch}' if trainer.epoch else 'before the training'}"


def is_finite(array: Array) -> bool:
    """Whether all values of `array`, which has at least one, are finite."""
    return bool(abs(array).max() < float("inf"))  # false for NaN as well


def first_not_finite(
    model: Layer,
    x: Array,
    targets: Array,
    weights: Array | None,
    loss: Loss,
    ctx: ForwardContext,
    *,
    gradients: bool = True,
) -> str | None:
    """What is not finite first in a step, as a clause: the input, a target, a parameter, an output, the loss or a
    gradient.

    Runs the forward pass layer by layer and, with `gradients`, the backward pass. None if all is finite.
    """
    if not is_finite(x):
        return NOT_FINITE_INPUT
    if targets.dtype.kind == "f" and not is_finite(targets):
        return f"a target is beyond {targets.dtype}"
    if weights is not None and not (is_finite(weights) and bool((weights > 0).any())):
        return f"the sample weights of the batch are all 0, or beyond {weights.dtype}"
    for name, parameter in model.named_parameters():
        if not is_finite(parameter.value):
            return f"parameter {name} is not finite"
    for name, buffer in model.named_buffers():
        if not is_finite(buffer.value):
            return f"buffer {name} is not finite"

    def walk(name: str, layer: Layer, x: Array) -> tuple[Array, str | None]:
        if isinstance(layer, Sequential):
            for child_name, child in layer.children():
                x, found = walk(f"{name}.{child_name}" if name else child_name, child, x)
                if found:
                    return x, found
            return x, None
        x = layer.forward(x, ctx)[0]
        return x, None if is_finite(x) else f"the output of layer {name} ({type(layer).__name__}) is not finite"

    found = walk("", model, x)[1]
    if found:
        return found
    outputs, backward = model.forward(x, ctx)
    value, gradient = loss(outputs, targets, weights)
    if not is_finite(value):
        return "the loss is not finite, but all layers are"
    if gradients:
        backward(gradient)
        for name, parameter in model.named_parameters():
            if not is_finite(parameter.grad):
                return f"the gradient of {name} is not finite"
    return None
