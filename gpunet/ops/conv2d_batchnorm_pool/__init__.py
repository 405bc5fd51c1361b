"""A network's first block in training: convolution, batch norm, 2x2 max pooling and ReLU in one op, without dx."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpunet.backend import Array, Gather
from gpunet.checks import check_float, check_out, check_shape
from gpunet.errors import DTypeError, ShapeError
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows, no_sum
from gpunet.ops.batchnorm.parameters import BatchNormParameters, check_vectors
from gpunet.ops.geometry import Conv2dGeometry, Padding, Pool2dGeometry

MAX_PATCH_INPUTS = 31
"""Most inputs of a patch, taps times channels: up to there, sums of the products of two of them are cheap."""


class ConvBatchNormMaxPoolSaved(NamedTuple):
    """What the forward pass saves for the backward pass, besides `x`."""

    mean: Array
    """The convolution's mean over the batch, float64 (C_out,)."""
    inv_std: Array
    """1 / sqrt(variance + eps), float64 (C_out,)."""
    argmax: Array
    """As :class:`BatchNormMaxPoolSaved`'s."""
    kept: Array
    """On the CPU float64 (K + 1, K + 1), the sums over all positions of products of two of a patch's K inputs and 1; on
    a GPU the convolution."""
    gather: Gather | None = None
    """As given."""


def conv2d_batch_norm_max_pool(
    x: Array,
    weight: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    padding: Padding = 0,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    gather: Gather | None = None,
) -> tuple[Array, ConvBatchNormMaxPoolSaved]:
    """:func:`gpunet.ops.conv2d` followed by :func:`gpunet.ops.batch_norm_max_pool` in training.

    The CPU never stores the convolution: mean and variance, and all gradients, follow from the sums of products of the
    inputs of a patch, of which there may be 31 (``KH * KW * C``).

    Args:
        x: (N, H, W, C), float32 or float64.
        weight: (KH, KW, C, C_out), dtype of `x`; with stride 1.
        gamma, beta, running_mean, running_var: (C_out,), dtype of `x`; the last two are updated **in place**.
        padding: as for :func:`gpunet.ops.conv2d`.
        momentum, eps, relu, gather: as for :func:`gpunet.ops.batch_norm_max_pool`.

    Returns:
        (y, saved): y is (N, OH // 2, OW // 2, C_out), dtype of `x`; saved is for
        :func:`conv2d_batch_norm_max_pool_backward`.

    Raises:
        ShapeError: shapes do not match, a patch has more inputs, the map is smaller than a window, or no images.
        DTypeError: not float32 or float64, or mixed dtypes.
        ConfigError: an option is out of range.
        DeviceError: the arrays are on different devices.

    >>> x = np.float32([[1, 3], [1, 3]]).reshape(1, 2, 2, 1)
    >>> gamma, beta, mean, var = np.ones((4, 1), np.float32)
    >>> weight = np.full((1, 1, 1, 1), 7, np.float32)
    >>> y, saved = gn.ops.conv2d_batch_norm_max_pool(x, weight, gamma, beta, mean, var, eps=1e-10)
    >>> y.item(), saved.mean.item()  # the largest of -1 and 1, plus beta; 7 times the mean of x
    (2.0, 14.0)
    """
    impl = implementation(__name__, x, weight, gamma, beta, running_mean, running_var)
    geometry = _geometry(x, weight, padding)
    given = BatchNormParameters(gamma, beta, running_mean, running_var, True, momentum, eps, gather)
    check_float(x=x, weight=weight, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    parameters = given.of_shape(geometry.y_shape)
    if not geometry.batch:
        y_shape = Pool2dGeometry.of(geometry.y_shape, 2).y_shape
        y, argmax = no_rows(y_shape, x), no_rows(y_shape, x, np.uint8)
        return y, ConvBatchNormMaxPoolSaved(*parameters.running_statistics(), argmax, no_rows(geometry.y_shape, x))
    y, mean, inv_std, argmax, kept = impl.conv2d_batch_norm_max_pool(x, weight, parameters, geometry, bool(relu))
    return y, ConvBatchNormMaxPoolSaved(mean, inv_std, argmax, kept, gather)


def conv2d_batch_norm_max_pool_backward(
    dy: Array,
    x: Array,
    weight: Array,
    gamma: Array,
    saved: ConvBatchNormMaxPoolSaved,
    *,
    padding: Padding = 0,
    out: tuple[Array | None, Array | None, Array | None] = (None, None, None),
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`conv2d_batch_norm_max_pool` but that of x, which a network's input does not need.

    With ``saved.gather``, dgamma and dbeta are the contributions of this part, as is dweight, which has the gradient
    through the statistics of all.

    Args:
        dy: gradient of y, (N, OH // 2, OW // 2, C_out).
        x, weight, gamma, padding: as passed to the forward pass.
        saved: as returned by the forward pass.
        out: C-contiguous arrays to write the gradients to, which are then returned; None: new arrays.

    Returns:
        (dweight, dgamma, dbeta), with the shapes of weight, gamma and beta and the dtype of `x`.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays do not match.

    >>> x = np.float32([[1, 3], [1, 3]]).reshape(1, 2, 2, 1)
    >>> gamma, beta, mean, var = np.ones((4, 1), np.float32)
    >>> weight = np.full((1, 1, 1, 1), 7, np.float32)
    >>> y, saved = gn.ops.conv2d_batch_norm_max_pool(x, weight, gamma, beta, mean, var, eps=1e-10)
    >>> dy = np.full_like(y, 5)
    >>> dweight, dgamma, dbeta = gn.ops.conv2d_batch_norm_max_pool_backward(dy, x, weight, gamma, saved)
    >>> abs(dweight.item()) < 1e-6, dgamma.item(), dbeta.item()  # a factor of all x does not show after batch norm
    (True, 5.0, 5.0)
    """
    impl = implementation(__name__, dy, x, weight, gamma, saved.mean, saved.inv_std, saved.argmax, saved.kept, *out)
    geometry = _geometry(x, weight, padding)
    y_shape = Pool2dGeometry.of(geometry.y_shape, 2).y_shape
    check_float(x=x, dy=dy, weight=weight, gamma=gamma)
    check_shape("dy", dy, y_shape)
    vectors = {"saved.mean": saved.mean, "saved.inv_std": saved.inv_std}
    check_vectors(geometry.out_channels, gamma=gamma, **vectors)
    check_shape("saved.argmax", saved.argmax, y_shape)
    if saved.argmax.dtype != np.uint8:
        raise DTypeError(f"saved.argmax must be uint8, as the forward pass returns it, got {saved.argmax.dtype}")
    wanted = ("dweight", weight.shape, x.dtype), ("dgamma", gamma.shape, x.dtype), ("dbeta", gamma.shape, x.dtype)
    check_out(out, *wanted)
    if not geometry.batch:
        like = zip((weight.shape, gamma.shape, gamma.shape), out, strict=True)
        dweight, dgamma, dbeta = (no_sum(shape, x, array) for shape, array in like)
        return dweight, dgamma, dbeta
    dweight, dgamma, dbeta = impl.conv2d_batch_norm_max_pool_backward(dy, x, weight, gamma, saved, geometry, out)
    return dweight, dgamma, dbeta


def _geometry(x: Array, weight: Array, padding: Padding) -> Conv2dGeometry:
    geometry = Conv2dGeometry.of(x.shape, weight.shape, padding=padding)
    taps = geometry.kernel[0] * geometry.kernel[1] * geometry.in_channels
    if taps > MAX_PATCH_INPUTS:
        raise ShapeError(
            f"a patch may have {MAX_PATCH_INPUTS} inputs, got {taps} for weight {tuple(weight.shape)}: "
            "use conv2d and batch_norm_max_pool"
        )
    Pool2dGeometry.of(geometry.y_shape, 2)
    return geometry
