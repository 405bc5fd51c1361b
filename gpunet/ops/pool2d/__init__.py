"""2-D pooling of NHWC maps.

Everywhere below, `kernel_size`, `stride` (default: `kernel_size`) and `dilation` are an int or (vertical, horizontal),
and `padding` is an int, (vertical, horizontal), ((top, bottom), (left, right)), ``"valid"`` or ``"same"``, at most half
the window. An output axis has ``(size + padding - dilation * (kernel - 1) - 1) / stride + 1`` entries, rounded down, or
up with `ceil_mode`, where the last window must start inside the map or its leading padding. Semantics are PyTorch's.

All functions raise ShapeError (ranks or shapes do not match, the window is larger than the padded map), DTypeError (not
float32 or float64, or mixed dtypes), ConfigError (an option is out of range) and DeviceError (mixed devices).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.backend import Array
from gpunet.checks import check_float, check_rank, check_shape
from gpunet.errors import DTypeError
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows
from gpunet.ops.geometry import Padding, Pool2dGeometry

Size = int | Sequence[int]


def argmax_dtype(geometry: Pool2dGeometry) -> Any:
    """The dtype of max_pool2d's second result: uint8 if it can index all taps of the window, else int32."""
    return np.dtype(np.uint8 if geometry.kernel[0] * geometry.kernel[1] <= 256 else np.int32)


def max_pool2d(
    x: Array,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Maximum over windows of `x` (N, H, W, C), per channel; padding never wins.

    NaN counts as larger than any number. Of equal maxima, the first in row-major order is taken; of several NaNs, the
    last. A dilated window that covers no element of the map gives -inf.

    Returns:
        (y, argmax): y is (N, OH, OW, C), dtype of `x`. argmax, of the same shape, is the tap at which the maximum is,
        ``row * kernel width + column`` with (row, column) counted in taps; uint8 for up to 256 taps, else int32.

    >>> x = np.float32([[1, 9], [3, 4]]).reshape(1, 2, 2, 1)
    >>> y, argmax = gn.ops.max_pool2d(x, 2)
    >>> y.item(), argmax.item()
    (9.0, 1)
    """
    impl = implementation(__name__, x)
    geometry = Pool2dGeometry.of(
        x.shape, kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
    )
    check_float(x=x)
    if not geometry.batch:
        return no_rows(geometry.y_shape, x), no_rows(geometry.y_shape, x, argmax_dtype(geometry))
    y, argmax = impl.max_pool2d(x, geometry, argmax_dtype(geometry))
    return y, argmax


def max_pool2d_backward(
    dy: Array,
    argmax: Array,
    x_shape: Sequence[int],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Array:
    """Gradient of :func:`max_pool2d`: each entry of `dy` goes to the maximum of its window; overlaps accumulate.

    Args:
        dy: gradient of y, (N, OH, OW, C).
        argmax: as returned by the forward pass.
        x_shape: shape of the input of the forward pass, whose options must be passed, too.

    Returns: dx of `x_shape`, dtype of `dy`.

    >>> x = np.float32([[1, 9], [3, 4]]).reshape(1, 2, 2, 1)
    >>> y, argmax = gn.ops.max_pool2d(x, 2)
    >>> gn.ops.max_pool2d_backward(np.full_like(y, 5), argmax, x.shape, 2)[0, :, :, 0]
    array([[0., 5.],
           [0., 0.]], dtype=float32)
    """
    impl = implementation(__name__, dy, argmax)
    geometry = Pool2dGeometry.of(
        x_shape, kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
    )
    check_float(dy=dy)
    check_shape("dy", dy, geometry.y_shape)
    check_shape("argmax", argmax, geometry.y_shape)
    if argmax.dtype != argmax_dtype(geometry):
        raise DTypeError(f"argmax must be {argmax_dtype(geometry)}, as max_pool2d returns it, got {argmax.dtype}")
    return impl.max_pool2d_backward(dy, argmax, geometry) if geometry.batch else no_rows(geometry.x_shape, dy)


def avg_pool2d(
    x: Array,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Mean over windows of `x` (N, H, W, C), per channel.

    The divisor counts the elements inside the map and, with `count_include_pad`, those of the padding; never the part
    of a window that extends beyond the padding because of `ceil_mode`.

    Returns: y, (N, OH, OW, C), dtype of `x`.

    >>> gn.ops.avg_pool2d(np.float32([[1, 9], [3, 3]]).reshape(1, 2, 2, 1), 2).item()
    4.0
    """
    impl = implementation(__name__, x)
    geometry = Pool2dGeometry.of(x.shape, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    check_float(x=x)
    return impl.avg_pool2d(x, geometry, bool(count_include_pad)) if geometry.batch else no_rows(geometry.y_shape, x)


def avg_pool2d_backward(
    dy: Array,
    x_shape: Sequence[int],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Gradient of :func:`avg_pool2d` (same options): from `dy` (N, OH, OW, C), dx of `x_shape`, dtype of `dy`.

    >>> gn.ops.avg_pool2d_backward(np.full((1, 1, 1, 1), 4, np.float32), (1, 2, 2, 1), 2)[0, :, :, 0]
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    impl = implementation(__name__, dy)
    geometry = Pool2dGeometry.of(x_shape, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    check_float(dy=dy)
    check_shape("dy", dy, geometry.y_shape)
    if not geometry.batch:
        return no_rows(geometry.x_shape, dy)
    return impl.avg_pool2d_backward(dy, geometry, bool(count_include_pad))


def global_avg_pool2d(x: Array) -> Array:
    """Mean of each map of `x` (N, H, W, C), as (N, C) (Lin, Chen & Yan, Network in Network, 2013, section 3.2).

    >>> gn.ops.global_avg_pool2d(np.float32([[1, 9], [3, 3]]).reshape(1, 2, 2, 1))
    array([[4.]], dtype=float32)
    """
    check_rank("x", x, 4, "(N, H, W, C)")
    return avg_pool2d(x, x.shape[1:3])[:, 0, 0]


def global_avg_pool2d_backward(dy: Array, x_shape: Sequence[int]) -> Array:
    """Gradient of :func:`global_avg_pool2d`: from `dy` (N, C), dx of `x_shape` (N, H, W, C), dtype of `dy`.

    >>> gn.ops.global_avg_pool2d_backward(np.float32([[4]]), (1, 2, 2, 1))[0, :, :, 0]
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    check_rank("dy", dy, 2, "(N, C)")
    return avg_pool2d_backward(dy[:, None, None], x_shape, tuple(x_shape)[1:3])
