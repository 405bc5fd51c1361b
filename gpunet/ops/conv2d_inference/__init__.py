"""A whole convolution block in inference: convolution, batch norm, ReLU and 2x2 max pooling of NHWC maps in one op."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet.backend import Array
from gpunet.checks import check_float, check_number, check_shape
from gpunet.errors import ConfigError
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows
from gpunet.ops.geometry import Conv2dGeometry, Padding, Pool2dGeometry

NORM = ("gamma", "beta", "running_mean", "running_var")


def conv2d_inference(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    norm: Sequence[Array] | None = None,
    *,
    eps: float = 1e-5,
    relu: bool = False,
    max_pool: bool = False,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Array:
    """:func:`gpunet.ops.conv2d`, then batch norm with running statistics, max pooling and ReLU, each if wanted.

    On the CPU, batch norm is a factor and an offset per channel, applied while the sums are in cache, and what no
    window takes is not computed.

    Args:
        x, weight, bias, stride, padding, dilation, groups: as for :func:`gpunet.ops.conv2d`.
        norm: gamma, beta, running_mean and running_var of batch norm, each (C_out,) with the dtype of `x`; or None.
        eps: added to the variance, positive.
        relu: whether negative values become 0.
        max_pool: whether to take the maximum over non-overlapping 2x2 windows; an odd last row or column is in none.

    Returns:
        y, (N, OH, OW, C_out), or (N, OH // 2, OW // 2, C_out) with `max_pool`; dtype of `x`. There is no backward pass.

    Raises:
        ShapeError: shapes do not match, or a kernel or a window is larger than its map.
        DTypeError: not float32 or float64, or mixed dtypes.
        ConfigError: an option is out of range, or `norm` has not four entries.
        DeviceError: the arrays are on different devices.

    >>> x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> norm = np.float32([[2], [-30], [0], [1]])  # twice the sums, minus 30
    >>> y = gn.ops.conv2d_inference(x, np.ones((2, 2, 1, 1), np.float32), norm=norm, eps=1e-10, relu=True)
    >>> y[0, :, :, 0]  # the sums are 8, 12, 20 and 24
    array([[ 0.,  0.],
           [10., 18.]], dtype=float32)
    """
    given = () if norm is None else tuple(norm)
    if norm is not None and len(given) != len(NORM):
        raise ConfigError(f"norm must be the four arrays {', '.join(NORM)}, got {len(given)}")
    impl = implementation(__name__, x, weight, bias, *given)
    geometry = Conv2dGeometry.of(
        x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    check_float(x=x, weight=weight, bias=bias, **dict(zip(NORM, given, strict=False)))
    for name, vector in (("bias", bias), *zip(NORM, given, strict=False)):
        if vector is not None:
            check_shape(name, vector, (geometry.out_channels,))
    eps = check_number("eps", eps, low=0, low_open=True)
    y_shape = Pool2dGeometry.of(geometry.y_shape, 2).y_shape if max_pool else geometry.y_shape
    if not geometry.batch:
        return no_rows(y_shape, x)
    return impl.conv2d_inference(x, weight, bias, given or None, geometry, eps, bool(relu), bool(max_pool))
