"""Layer fusion: consecutive layers that are computed as one op.

:data:`RULES` lists the patterns; a ``Sequential`` makes its :func:`plan` once, at construction. A rule matches a prefix
of the remaining layers and replaces it, or declines. It matches exact types, as a subclass may compute something else.
The replacement shares the layers' parameters and has the same outputs and gradients, up to the order of summation.

To add a fusion, add a rule here and a test against the unfused layers, forward and all gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import pair
from gpunet.errors import DTypeError
from gpunet.nn.activation import Activation, ReLU, never_decreases
from gpunet.nn.conv import Conv2d
from gpunet.nn.layer import Backward, ForwardContext, Layer
from gpunet.nn.linear import Linear
from gpunet.nn.norm import BatchNorm
from gpunet.nn.pool import MaxPool2d
from gpunet.ops.conv2d_batchnorm_pool import MAX_PATCH_INPUTS


class Step(Protocol):
    """One step of a plan: a layer, or several fused ones."""

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        """As :meth:`gpunet.nn.Layer.forward`."""

    def has_parameters(self) -> bool:
        """As :meth:`gpunet.nn.Layer.has_parameters`."""


def run(steps: Sequence[Step], x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
    """The output of `steps` in order, and their backward function.

    It stops early and returns None if nothing further down needs a gradient.

    Raises:
        DTypeError: a step, other than the first, converts what it is given.
    """
    tape: list[Backward] = []
    for step in steps:
        y, step_backward = step.forward(x, ctx)
        if tape and y.dtype != x.dtype:
            raise DTypeError(_converts(step, "forward", y, x, "output", "an input"))
        x = y
        tape.append(step_backward)
        if not ctx.needs_input_grad and step.has_parameters():
            ctx = ctx.for_inner_layer()

    def backward(dy: Array) -> Array | None:
        for step, step_backward in zip(reversed(steps), reversed(tape), strict=True):
            below: Array | None = step_backward(dy)
            if below is None:
                return None
            if below.dtype != dy.dtype and step is not steps[0]:
                raise DTypeError(_converts(step, "backward", below, dy, "gradient", "a gradient"))
            dy = below
        return dy

    return x, backward


def _converts(step: Step, where: str, found: Array, given: Array, what: str, of: str) -> str:
    return (
        f"the {where} of {type(step).__name__} returned a {found.dtype} {what} for {of} of {given.dtype}: return "
        f"result.astype({given.dtype}) there; numbers such as numpy.float64 and arrays made without a dtype convert it"
    )


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
    """Batch norm followed by 2x2 max pooling and perhaps ReLU, without materialising the normalised map."""

    def __init__(self, norm: BatchNorm, relu: bool) -> None:
        self.norm, self.relu = norm, relu

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
            relu=self.relu,
            gather=ctx.gather,
        )

        def backward(dy: Array) -> Array:
            out = norm.gamma.grad, norm.beta.grad
            dx, _, _ = ops.batch_norm_max_pool_backward(dy, x, norm.gamma.value, saved, out=out)
            return dx

        return y, backward


class FusedConv:
    """A convolution and what follows it, one op in inference; in training the steps of the other rules.

    Nothing is kept from one call to the next, so that parameters and running statistics may change at any time.

    The first block of a network is one op in training, too, if it has few inputs and batch norm, and is pooled.
    """

    def __init__(
        self, conv: Conv2d, norm: BatchNorm | None, activation: Activation | None, max_pool: bool, steps: list[Step]
    ) -> None:
        self.conv, self.norm, self.max_pool, self.steps = conv, norm, max_pool, steps
        self.relu = type(activation) is ReLU
        self.activation = None if self.relu else activation
        plain = conv.bias is None and conv.groups == 1 and _is_one(conv.stride) and _is_one(conv.dilation)
        few = math.prod(conv.weight.shape[:3]) <= MAX_PATCH_INPUTS
        self.may_be_first = norm is not None and max_pool and plain and few

    def has_parameters(self) -> bool:
        return True

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        if ctx.training and self.may_be_first and not ctx.needs_input_grad:
            return self._first(x, ctx)
        if ctx.training:
            return run(self.steps, x, ctx)
        conv, norm = self.conv, self.norm
        parts = () if norm is None else (norm.gamma, norm.beta, norm.running_mean, norm.running_var)
        y = ops.conv2d_inference(
            x,
            conv.weight.value,
            None if conv.bias is None else conv.bias.value,
            None if norm is None else [part.value for part in parts],
            eps=1e-5 if norm is None else norm.eps,
            relu=self.relu,
            max_pool=self.max_pool,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
        )
        if self.activation is not None:
            y = self.activation.forward(y, ctx)[0]
        return y, lambda dy: run(self.steps, x, ctx)[1](dy)  # seldom wanted, so what it needs is computed then

    def _first(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        conv, norm = self.conv, self.norm
        assert norm is not None
        y, saved = ops.conv2d_batch_norm_max_pool(
            *(x, conv.weight.value, norm.gamma.value, norm.beta.value),
            *(norm.running_mean.value, norm.running_var.value),
            padding=conv.padding,
            momentum=norm.momentum,
            eps=norm.eps,
            relu=self.relu,
            gather=ctx.gather,
        )
        after = None if self.activation is None else self.activation.forward(y, ctx)

        def backward(dy: Array) -> None:
            inner = dy if after is None else after[1](dy)
            out = conv.weight.grad, norm.gamma.grad, norm.beta.grad
            given = inner, x, conv.weight.value, norm.gamma.value, saved
            ops.conv2d_batch_norm_max_pool_backward(*given, padding=conv.padding, out=out)

        return y if after is None else after[0], backward


def _is_one(value: int | Sequence[int]) -> bool:
    return pair("value", value) == (1, 1)


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
    relu = type(activation) is ReLU
    steps: list[Step] = [BatchNormMaxPool(norm, relu)]
    return 2 + (activation is not None), steps if activation is None or relu else [*steps, activation]


def conv_block(layers: Sequence[Layer]) -> tuple[int, list[Step]] | None:
    """Conv2d, then one or more of BatchNorm, ReLU and MaxPool2d with non-overlapping 2x2 windows, in this order.

    In place of ReLU there may be another non-decreasing activation if it is pooled: as it commutes with the maximum, it
    is applied last.
    """
    conv, *rest = layers
    if type(conv) is not Conv2d:
        return None
    norm = rest[0] if rest and isinstance(rest[0], BatchNorm) and type(rest[0]) is BatchNorm else None
    rest = rest if norm is None else rest[1:]
    activation = rest[0] if rest and isinstance(rest[0], Activation) else None
    rest = rest if activation is None else rest[1:]
    pool = rest[0] if rest else None
    pooled = type(pool) is MaxPool2d and pool.tiles_2x2 and (activation is None or never_decreases(activation))
    if not pooled and type(activation) is not ReLU:
        activation = None
    count = 1 + sum(part is not None for part in (norm, activation)) + pooled
    if count == 1:
        return None
    steps = plan(layers[:count], [rule for rule in RULES if rule is not conv_block])
    return count, [FusedConv(conv, norm, activation, pooled, steps)]


RULES: list[Rule] = [linear_relu, conv_block, batch_norm_max_pool]
"""Tried in this order at each layer; the first match wins."""


def plan(layers: Sequence[Layer], rules: Sequence[Rule] | None = None) -> list[Step]:
    """The steps that compute `layers` in order, by `rules` or else :data:`RULES`."""
    steps: list[Step] = []
    left = list(layers)
    while left:
        found = (rule(left) for rule in (RULES if rules is None else rules))
        count, replacement = next((match for match in found if match is not None), (1, [left[0]]))
        steps += replacement
        del left[:count]
    return steps
