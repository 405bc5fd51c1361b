"""2-D convolution (cross-correlation, as in every deep-learning library) of NHWC maps with HWIO weights."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet.backend import Array
from gpunet.checks import check_float, check_needs, check_out, check_shape
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows, no_sum
from gpunet.ops.geometry import Conv2dGeometry, Padding

NEEDS = ("x", "weight", "bias")


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Array:
    """Convolve `x` with `weight` and add `bias`.

    ``y[n, i, j, o] = bias[o] + sum over (p, q, c) of x[n, i*s - top + p*d, j*s - left + q*d, c] * weight[p, q, c, o]``
    with zeros outside the map (Dumoulin & Visin, A guide to convolution arithmetic, 2016).

    Args:
        x: (N, H, W, C_in), float32 or float64.
        weight: (KH, KW, C_in / groups, C_out), dtype of `x`.
        bias: (C_out,) or None.
        stride: an int or (vertical, horizontal).
        padding: an int, (vertical, horizontal), ((top, bottom), (left, right)), ``"valid"`` or ``"same"``.
        dilation: spacing of the taps, an int or (vertical, horizontal).
        groups: number of independent groups that input and output channels are split into.

    Returns:
        y, (N, OH, OW, C_out), OH = (H + top + bottom - d * (KH - 1) - 1) // s + 1, dtype of `x`.

    Raises:
        ShapeError: ranks or channels do not match, or the kernel is larger than the padded map.
        DTypeError: not float32 or float64, or mixed dtypes.
        ConfigError: an option is out of range.
        DeviceError: the arrays are on different devices.

    >>> x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> y = gn.ops.conv2d(x, np.ones((2, 2, 1, 1), np.float32))
    >>> y.shape
    (1, 2, 2, 1)
    >>> y[0, :, :, 0]  # 0 + 1 + 3 + 4, ...
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    impl = implementation(__name__, x, weight, bias)
    geometry = Conv2dGeometry.of(
        x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    check_float(x=x, weight=weight, bias=bias)
    if bias is not None:
        check_shape("bias", bias, (geometry.out_channels,))
    return impl.conv2d(x, weight, bias, geometry) if geometry.batch else no_rows(geometry.y_shape, x)


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    needs: Sequence[str] = NEEDS,
    out: tuple[Array | None, Array | None] = (None, None),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`conv2d`.

    Args:
        dy: gradient of the output, (N, OH, OW, C_out).
        x, weight, stride, padding, dilation, groups: as passed to the forward pass.
        needs: the gradients to compute, out of ``"x"``, ``"weight"`` and ``"bias"``.
        out: C-contiguous arrays to write dweight and dbias to, which are then returned; None: new arrays.

    Returns:
        (dx, dweight, dbias), with the shapes of x, weight and (C_out,); None for those not in `needs`.

    Raises: as :func:`conv2d`.

    >>> x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> dy, weight = np.ones((1, 2, 2, 1), np.float32), np.ones((2, 2, 1, 1), np.float32)
    >>> dx, dweight, dbias = gn.ops.conv2d_backward(dy, x, weight)
    >>> dx[0, :, :, 0]  # in how many windows each pixel is
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]], dtype=float32)
    >>> dbias
    array([4.], dtype=float32)
    """
    impl = implementation(__name__, dy, x, weight, *out)
    geometry = Conv2dGeometry.of(
        x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    check_float(x=x, weight=weight, dy=dy)
    check_shape("dy", dy, geometry.y_shape)
    check_needs(needs, NEEDS)
    check_out(out, ("dweight", weight.shape, x.dtype), ("dbias", weight.shape[3:], x.dtype))
    if not geometry.batch:
        return (
            no_rows(x.shape, x) if "x" in needs else None,
            no_sum(weight.shape, x, out[0]) if "weight" in needs else None,
            no_sum(weight.shape[3:], x, out[1]) if "bias" in needs else None,
        )
    return (
        impl.conv2d_backward_x(dy, weight, geometry) if "x" in needs else None,
        impl.conv2d_backward_weight(dy, x, geometry, out[0]) if "weight" in needs else None,
        impl.conv2d_backward_bias(dy, out[1]) if "bias" in needs else None,
    )
