"""The convolution layer."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_int, pair
from gpunet.errors import ConfigError
from gpunet.nn.init import Constant, He, Initializer
from gpunet.nn.layer import Backward, ForwardContext, Layer, Shape
from gpunet.nn.parameter import Parameter
from gpunet.ops.geometry import Conv2dGeometry, Padding


class Conv2d(Layer):
    """2-D convolution: (N, H, W, in_channels) to (N, OH, OW, out_channels); options as :func:`gpunet.ops.conv2d`.

    >>> conv = gn.nn.Conv2d(1, 8, kernel_size=3, stride=2)
    >>> conv.output_shape((28, 28, 1))
    (14, 14, 8)
    >>> conv.parameter_count  # 3 * 3 * 1 * 8 weights, 8 biases
    80
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        init: Initializer | None = None,
    ) -> None:
        kernel = pair("kernel_size", kernel_size)
        groups = check_int("groups", groups, low=1)
        if (
            check_int("in_channels", in_channels, low=1) % groups
            or check_int("out_channels", out_channels, low=1) % groups
        ):
            raise ConfigError(
                f"groups={groups} must divide the {in_channels} input and the {out_channels} output channels"
            )
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = Parameter((*kernel, in_channels // groups, out_channels), init or He())
        self.bias = Parameter((out_channels,), Constant(0.0), decay=False) if bias else None

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        bias = None if self.bias is None else self.bias.value
        y = ops.conv2d(
            x,
            self.weight.value,
            bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

        def backward(dy: Array) -> Array | None:
            dx, _, _ = ops.conv2d_backward(
                dy,
                x,
                self.weight.value,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=self.groups,
                needs=ctx.needs(bias=self.bias is not None),
                out=(self.weight.grad, None if self.bias is None else self.bias.grad),
            )
            return dx

        return y, backward

    def _geometry(self, input_shape: Shape) -> Conv2dGeometry:
        return Conv2dGeometry.of(
            (1, *input_shape),
            self.weight.shape,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        return self._geometry(input_shape).y_shape[1:]

    def flops(self, input_shape: Shape) -> int:
        return self._geometry(input_shape).flops
