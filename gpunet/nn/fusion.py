"""Layer fusion: consecutive layers that are computed as one op.

:data:`RULES` lists the patterns; a ``Sequential`` makes its :func:`plan` once, at construction. A rule matches a prefix
of the remaining layers and replaces it, or declines. It matches exact types, as a subclass may compute something else.
The replacement shares the layers' parameters and has the same outputs and gradients, up to the order of summation.

To add a fusion, add a rule here and a test against the unfused layers, forward and all gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gpunet import ops
from gpunet.backend import Array
from gpunet.nn.activation import ReLU, never_decreases
from gpunet.nn.layer import Backward, ForwardContext, Layer
from gpunet.nn.linear import Linear
from gpunet.nn.norm import BatchNorm
from gpunet.nn.pool import MaxPool2d


class Step(Protocol):
    """One step of a plan: a layer, or several fused ones."""

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        """As :meth:`gpunet.nn.Layer.forward`."""

    def has_parameters(self) -> bool:
        """As :meth:`gpunet.nn.Layer.has_parameters`."""


Rule = Callable[[Sequence[Layer]], tuple[int, list[Step]] | None]
"""Takes the remaining layers; returns how many of them it replaces and with which steps, or None."""


class LinearReLU:
    """A linear layer followed by ReLU, which is applied while the sums are still in cache."""

    def __init__(self, linear: Linear) -> None:
        self.linear = linear

    def has_parameters(self) -> bool:
        return True

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        weight, bias = self.linear.weight, self.linear.bias
        y = ops.linear(x, weight.value, None if bias is None else bias.value, relu=True)

        def backward(dy: Array) -> Array | None:
            out = weight.grad, None if bias is None else bias.grad
            needs = ctx.needs(bias=bias is not None)
            dx, _, _ = ops.linear_backward(dy, x, weight.value, y=y, needs=needs, out=out)
            return dx

        return y, backward


class BatchNormMaxPool:
    """Batch norm followed by 2x2 max pooling, without materialising the normalised map."""

    def __init__(self, norm: BatchNorm) -> None:
        self.norm = norm

    def has_parameters(self) -> bool:
        return True

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        norm = self.norm
        y, saved = ops.batch_norm_max_pool(
            x,
            norm.gamma.value,
            norm.beta.value,
            norm.running_mean.value,
            norm.running_var.value,
            training=ctx.training,
            momentum=norm.momentum,
            eps=norm.eps,
            gather=ctx.gather,
        )

        def backward(dy: Array) -> Array:
            out = norm.gamma.grad, norm.beta.grad
            dx, _, _ = ops.batch_norm_max_pool_backward(dy, x, norm.gamma.value, saved, out=out)
            return dx

        return y, backward


def linear_relu(layers: Sequence[Layer]) -> tuple[int, list[Step]] | None:
    """Linear, ReLU."""
    match layers[:2]:
        case [Linear() as linear, ReLU() as relu] if type(linear) is Linear and type(relu) is ReLU:
            return 2, [LinearReLU(linear)]
    return None


def batch_norm_max_pool(layers: Sequence[Layer]) -> tuple[int, list[Step]] | None:
    """BatchNorm, optionally a non-decreasing activation, then MaxPool2d with non-overlapping 2x2 windows.

    A non-decreasing activation commutes with the maximum, so it is applied last, to a quarter of the elements. If it
    rounds two inputs of a window to the same output, the gradient goes to the larger input rather than the first.
    """
    norm, *rest = layers
    activation = rest.pop(0) if rest and never_decreases(rest[0]) else None
    pool = rest[0] if rest else None
    if type(norm) is not BatchNorm or type(pool) is not MaxPool2d or not pool.tiles_2x2:
        return None
    return (2, [BatchNormMaxPool(norm)]) if activation is None else (3, [BatchNormMaxPool(norm), activation])


RULES: list[Rule] = [linear_relu, batch_norm_max_pool]
"""Tried in this order at each layer; the first match wins."""


def plan(layers: Sequence[Layer]) -> list[Step]:
    """The steps that compute `layers` in order."""
    steps: list[Step] = []
    left = list(layers)
    while left:
        replaced = next((found for rule in RULES if (found := rule(left)) is not None), (1, [left[0]]))
        steps += replaced[1]
        del left[: replaced[0]]
    return steps
