"""The linear layer."""

from __future__ import annotations

import math

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_int
from gpunet.errors import ShapeError
from gpunet.nn.init import Constant, He, Initializer
from gpunet.nn.layer import Backward, ForwardContext, Layer, Shape
from gpunet.nn.parameter import Parameter


class Linear(Layer):
    """``y = x @ weight + bias`` with x (N, in_features) and y (N, out_features).

    >>> layer = gn.nn.Linear(2, 1, init=gn.nn.Constant(3.0)).initialize()
    >>> y, backward = layer.forward(np.float32([[1, 2]]), gn.nn.ForwardContext(training=True))
    >>> y
    array([[9.]], dtype=float32)
    >>> backward(np.float32([[1]])), layer.weight.grad.ravel()
    (array([[3., 3.]], dtype=float32), array([1., 2.], dtype=float32))
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, init: Initializer | None = None
    ) -> None:
        shape = check_int("in_features", in_features, low=1), check_int("out_features", out_features, low=1)
        self.weight = Parameter(shape, init or He())
        self.bias = Parameter((out_features,), Constant(0.0), decay=False) if bias else None

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        bias = None if self.bias is None else self.bias.value
        y = ops.linear(x, self.weight.value, bias)

        def backward(dy: Array) -> Array | None:
            dx, _, _ = ops.linear_backward(
                dy,
                x,
                self.weight.value,
                needs=ctx.needs(bias=self.bias is not None),
                out=(self.weight.grad, None if self.bias is None else self.bias.grad),
            )
            return dx

        return y, backward

    def output_shape(self, input_shape: Shape) -> Shape:
        if tuple(input_shape) != self.weight.shape[:1]:
            raise ShapeError(
                f"Linear expects {self.weight.shape[0]} inputs, got shape {tuple(input_shape)}: "
                "put Flatten or GlobalAvgPool2d before it"
            )
        return self.weight.shape[1:]

    def flops(self, input_shape: Shape) -> int:
        return 2 * math.prod(self.weight.shape)
