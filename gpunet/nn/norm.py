"""Batch normalisation."""

from __future__ import annotations

import math

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_int, check_number
from gpunet.errors import ShapeError
from gpunet.nn.init import Constant
from gpunet.nn.layer import Backward, ForwardContext, Layer, Shape
from gpunet.nn.parameter import Buffer, Parameter


class BatchNorm(Layer):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy, 2015); see :func:`gpunet.ops.batch_norm`.

    Args:
        features: size of the last axis.
        momentum: weight of the batch statistics in the running ones (PyTorch's convention).
        eps: added to the variance.

    >>> norm = gn.nn.BatchNorm(1, momentum=0.5).initialize()
    >>> y, backward = norm.forward(np.float32([[0], [2]]), gn.nn.ForwardContext(training=True))
    >>> y.round(3).ravel(), norm.running_mean.value  # halfway from 0 to the batch's mean, 1
    (array([-1.,  1.], dtype=float32), array([0.5], dtype=float32))
    """

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        features = check_int("features", features, low=1)
        self.momentum = check_number("momentum", momentum, low=0, high=1)
        self.eps = check_number("eps", eps, low=0, low_open=True)
        self.gamma = Parameter((features,), Constant(1.0), decay=False)
        self.beta = Parameter((features,), Constant(0.0), decay=False)
        self.running_mean = Buffer((features,), 0.0)
        self.running_var = Buffer((features,), 1.0)

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        y, saved = ops.batch_norm(
            x,
            self.gamma.value,
            self.beta.value,
            self.running_mean.value,
            self.running_var.value,
            training=ctx.training,
            momentum=self.momentum,
            eps=self.eps,
            gather=ctx.gather,
        )

        def backward(dy: Array) -> Array:
            dx, _, _ = ops.batch_norm_backward(dy, x, self.gamma.value, saved, out=(self.gamma.grad, self.beta.grad))
            return dx

        return y, backward

    def output_shape(self, input_shape: Shape) -> Shape:
        if tuple(input_shape[-1:]) != self.gamma.shape:
            raise ShapeError(
                f"BatchNorm expects {self.gamma.shape[0]} features in the last axis, got shape {tuple(input_shape)}"
            )
        return input_shape

    def flops(self, input_shape: Shape) -> int:
        return 2 * math.prod(input_shape)
