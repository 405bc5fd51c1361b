"""Pooling layers and Flatten."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpunet import ops
from gpunet.backend import Array
from gpunet.errors import ShapeError
from gpunet.nn.layer import Backward, ForwardContext, Layer, Shape
from gpunet.ops.geometry import Padding, Pool2dGeometry


class MaxPool2d(Layer):
    """Maximum over windows of (N, H, W, C); options as :func:`gpunet.ops.max_pool2d`.

    >>> gn.nn.MaxPool2d(2)(np.float32([[1, 9], [3, 3]]).reshape(1, 2, 2, 1)).item()
    9.0
    >>> gn.nn.MaxPool2d(3, stride=2).output_shape((28, 28, 8))
    (13, 13, 8)
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int] = 2,
        *,
        stride: int | Sequence[int] | None = None,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode
        self.output_shape((10**6, 10**6, 1))  # checks the options

    @property
    def tiles_2x2(self) -> bool:
        """Whether the windows are 2x2, non-overlapping and inside the map, whatever its size."""
        return all(self._geometry((size, size, 1)).tiles_2x2 for size in (10**6, 10**6 + 1))

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        y, argmax = ops.max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )
        x_shape = x.shape

        def backward(dy: Array) -> Array:
            return ops.max_pool2d_backward(
                dy,
                argmax,
                x_shape,
                self.kernel_size,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                ceil_mode=self.ceil_mode,
            )

        return y, backward

    def _geometry(self, input_shape: Shape) -> Pool2dGeometry:
        return Pool2dGeometry.of(
            (1, *input_shape),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )

    def output_shape(self, input_shape: Shape) -> Shape:
        return self._geometry(input_shape).y_shape[1:]


class AvgPool2d(Layer):
    """Mean over windows of (N, H, W, C); options as :func:`gpunet.ops.avg_pool2d`.

    >>> gn.nn.AvgPool2d(2)(np.float32([[1, 9], [3, 3]]).reshape(1, 2, 2, 1)).item()
    4.0
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int] = 2,
        *,
        stride: int | Sequence[int] | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.output_shape((10**6, 10**6, 1))  # checks the options

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        y = ops.avg_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )
        x_shape = x.shape

        def backward(dy: Array) -> Array:
            return ops.avg_pool2d_backward(
                dy,
                x_shape,
                self.kernel_size,
                stride=self.stride,
                padding=self.padding,
                ceil_mode=self.ceil_mode,
                count_include_pad=self.count_include_pad,
            )

        return y, backward

    def output_shape(self, input_shape: Shape) -> Shape:
        return Pool2dGeometry.of(
            (1, *input_shape), self.kernel_size, stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode
        ).y_shape[1:]


class GlobalAvgPool2d(Layer):
    """Mean over the whole map: (N, H, W, C) to (N, C) (Lin et al., Network in Network, 2013).

    >>> gn.nn.GlobalAvgPool2d()(np.float32([[1, 9], [3, 3]]).reshape(1, 2, 2, 1))
    array([[4.]], dtype=float32)
    """

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        x_shape = x.shape
        return ops.global_avg_pool2d(x), lambda dy: ops.global_avg_pool2d_backward(dy, x_shape)

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 3:
            raise ShapeError(f"GlobalAvgPool2d expects maps (H, W, C), got shape {tuple(input_shape)}")
        return input_shape[-1:]


class Flatten(Layer):
    """(N, ...) to (N, features).

    >>> gn.nn.Flatten()(np.zeros((5, 7, 7, 2), np.float32)).shape
    (5, 98)
    """

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        x_shape = x.shape
        return x.reshape(x_shape[0], math.prod(x_shape[1:])), lambda dy: dy.reshape(x_shape)

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def flops(self, input_shape: Shape) -> int:
        return 0
