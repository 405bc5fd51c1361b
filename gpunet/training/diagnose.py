"""Diagnosis of diverged training: the first non-finite value."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.nn import ForwardContext, Layer, Sequential, SoftmaxCrossEntropy

NOT_FINITE_INPUT = "the input of the model is not finite"


def _finite(array: Array) -> bool:
    return bool(abs(array).max() < float("inf"))  # false for NaN as well


def first_not_finite(
    model: Layer, x: Array, labels: Array, loss: SoftmaxCrossEntropy, ctx: ForwardContext, *, gradients: bool = True
) -> str | None:
    """What is not finite first in a step, as a clause: the input, a parameter, an output, the loss or a gradient.

    Runs the forward pass layer by layer and, with `gradients`, the backward pass. None if all is finite.
    """
    if not _finite(x):
        return NOT_FINITE_INPUT
    for name, parameter in model.named_parameters():
        if not _finite(parameter.value):
            return f"parameter {name} is not finite"
    for name, buffer in model.named_buffers():
        if not _finite(buffer.value):
            return f"buffer {name} is not finite"

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
    logits, backward = model.forward(x, ctx)
    value, dlogits = loss(logits, labels)
    if not _finite(value):
        return "the loss is not finite, but all layers are"
    if gradients:
        backward(dlogits)
        for name, parameter in model.named_parameters():
            if not _finite(parameter.grad):
                return f"the gradient of {name} is not finite"
    return None
