"""Where a training went wrong: the first layer with a value that is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpunet.backend import Array
from gpunet.errors import DivergedError
from gpunet.nn import ForwardContext, Layer, Sequential

if TYPE_CHECKING:
    from gpunet.training.trainer import Trainer


def _finite(array: Array) -> bool:
    return bool(abs(array).max() < float("inf"))  # false for NaN as well


def first_not_finite(model: Layer, x: Array, ctx: ForwardContext) -> str:
    """A sentence about the first parameter, input or layer output of `model` at `x` that is not finite."""
    if not _finite(x):
        return "the input of the model is not finite"
    for name, parameter in model.named_parameters():
        if not _finite(parameter.value):
            return f"parameter {name} is not finite"

    def walk(name: str, layer: Layer, x: Array) -> tuple[Array, str | None]:
        if isinstance(layer, Sequential):
            for child_name, child in layer.children():
                x, found = walk(f"{name}.{child_name}" if name else child_name, child, x)
                if found:
                    return x, found
            return x, None
        x = layer.forward(x, ctx)[0]
        return x, None if _finite(x) else f"the output of layer {name} ({type(layer).__name__}) is not finite"

    found = walk("", model, x)[1]
    if found:
        return found
    for name, parameter in model.named_parameters():
        if not _finite(parameter.grad):
            return f"the gradient of {name} is not finite"
    return "the loss is not finite, but all layers are"


def diverged(trainer: Trainer, index: int) -> DivergedError:
    """The error for a loss that was not finite in step `index` (from 0) of the running epoch; runs that step again."""
    number = trainer.epoch * trainer.steps_per_epoch + index
    seed = trainer.config.seed
    x, _ = trainer.train.training_batch(index * trainer.batch_size, trainer.batch_size, seed=seed, step=number)
    state = trainer.flat.state.copy()
    where = first_not_finite(trainer.model, x, ForwardContext(training=True, seed=seed, step=number))
    trainer.flat.state[...] = state  # the diagnosis leaves no trace in the running statistics
    return DivergedError(
        f"training diverged in step {number + 1} (epoch {trainer.epoch + 1}, learning rate {trainer.lr:.3g}): {where}. "
        "Use a lower --lr, --clip-norm, or check the data"
    )
