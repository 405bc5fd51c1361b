"""Batch normalisation, 2x2 max pooling and ReLU of NHWC maps in one op, which never stores the normalised map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpunet.backend import Array, Gather
from gpunet.checks import check_float, check_shape
from gpunet.errors import DTypeError
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows, no_sum
from gpunet.ops.batchnorm.parameters import BatchNormParameters, check_gradient
from gpunet.ops.geometry import Pool2dGeometry

NO_TAP = 4
"""The argmax of a window whose maximum ReLU made zero, so that no gradient passes; also in ``kernels/pool2d.cu``."""


class BatchNormMaxPoolSaved(NamedTuple):
    """What the forward pass saves for the backward pass, besides `x`."""

    mean: Array
    """The mean, float64 (C,), that was subtracted, the batch's in training, else the running one."""
    inv_std: Array
    """1 / sqrt(variance + eps), float64 (C,)."""
    argmax: Array
    """Position of the largest normalised value in its window, ``2 * row + column``; uint8 (N, H // 2, W // 2, C).

    With `relu`, 4 where that value is not positive."""
    training: bool
    """Whether mean and variance are those of the batch, so that gradients flow through them."""
    gather: Gather | None = None
    """As given."""
    outputs: tuple[Array, Array] | None = None
    """`y` and `beta`, not copied: a backward pass may sum over y, a quarter of x; with None it does over x."""


def batch_norm_max_pool(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    gather: Gather | None = None,
) -> tuple[Array, BatchNormMaxPoolSaved]:
    """:func:`gpunet.ops.batch_norm` followed by :func:`gpunet.ops.max_pool2d` with non-overlapping 2x2 windows.

    ReLU may follow, or come between the two, which is the same.

    The last row or column of an odd-sized map is in no window, but counts towards the batch's mean and variance.

    Args:
        x: (N, H, W, C), float32 or float64, H and W at least 2.
        gamma, beta, running_mean, running_var: (C,), dtype of `x`; training updates the last two **in place**.
        momentum: weight of the batch statistics in the running ones, 0 to 1.
        eps: added to the variance, positive.
        relu: whether values of y that are not positive become 0.
        gather: for one of several equal parts of a batch, see :func:`gpunet.ops.batch_norm`.

    Returns:
        (y, saved): y is (N, H // 2, W // 2, C), dtype of `x`; saved is for :func:`batch_norm_max_pool_backward`.

    Raises:
        ShapeError: shapes do not match, the map is smaller than a window, or training with no images.
        DTypeError: not float32 or float64, or mixed dtypes.
        ConfigError: `momentum` or `eps` is out of range.
        DeviceError: the arrays are on different devices.

    >>> x = np.float32([[1, 3], [1, 3]]).reshape(1, 2, 2, 1)
    >>> gamma, beta, mean, var = np.ones((4, 1), np.float32)
    >>> y, saved = gn.ops.batch_norm_max_pool(x, gamma, beta, mean, var, training=True, eps=1e-10)
    >>> y.item(), saved.argmax.item()  # the largest of -1 and 1, plus beta
    (2.0, 1)
    """
    impl = implementation(__name__, x, gamma, beta, running_mean, running_var)
    geometry = Pool2dGeometry.of(x.shape, 2)
    given = BatchNormParameters(gamma, beta, running_mean, running_var, training, momentum, eps, gather)
    parameters = given.checked(x)
    if not geometry.batch:
        y, argmax = no_rows(geometry.y_shape, x), no_rows(geometry.y_shape, x, np.uint8)
        mean, inv_std = parameters.running_statistics()
        return y, BatchNormMaxPoolSaved(mean, inv_std, argmax, False)
    y, mean, inv_std, argmax = impl.batch_norm_max_pool(x, parameters, bool(relu))
    return y, BatchNormMaxPoolSaved(mean, inv_std, argmax, parameters.training, gather, (y, beta))


def batch_norm_max_pool_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    saved: BatchNormMaxPoolSaved,
    *,
    out: tuple[Array | None, Array | None] = (None, None),
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`batch_norm_max_pool`; in training, also through the batch statistics.

    Args:
        dy: gradient of y, (N, H // 2, W // 2, C).
        x, gamma: as passed to the forward pass.
        saved: as returned by the forward pass.
        out: C-contiguous arrays to write dgamma and dbeta to, which are then returned; None: new arrays.

    Returns:
        (dx, dgamma, dbeta), with the shapes of x, gamma and beta and the dtype of `x`.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays do not match.

    >>> x = np.float32([[1, 3], [1, 3]]).reshape(1, 2, 2, 1)
    >>> gamma, beta, mean, var = np.ones((4, 1), np.float32)
    >>> y, saved = gn.ops.batch_norm_max_pool(x, gamma, beta, mean, var, training=True, eps=1e-10)
    >>> dx, dgamma, dbeta = gn.ops.batch_norm_max_pool_backward(np.full_like(y, 5), x, gamma, saved)
    >>> dx.shape, dgamma.item(), dbeta.item()
    ((1, 2, 2, 1), 5.0, 5.0)
    """
    outputs = saved.outputs or ()
    impl = implementation(__name__, dy, x, gamma, saved.mean, saved.inv_std, saved.argmax, *outputs, *out)
    geometry = Pool2dGeometry.of(x.shape, 2)
    check_gradient(dy, geometry.y_shape, x, gamma, saved.mean, saved.inv_std, out)
    check_shape("saved.argmax", saved.argmax, geometry.y_shape)
    if saved.argmax.dtype != np.uint8:
        raise DTypeError(f"saved.argmax must be uint8, as batch_norm_max_pool returns it, got {saved.argmax.dtype}")
    if saved.outputs is not None:
        y, beta = saved.outputs
        check_float(x=x, **{"saved.outputs[0]": y, "saved.outputs[1]": beta})
        check_shape("saved.outputs[0]", y, geometry.y_shape)
        check_shape("saved.outputs[1]", beta, gamma.shape)
    if not geometry.batch:
        return no_rows(x.shape, x), no_sum(gamma.shape, x, out[0]), no_sum(gamma.shape, x, out[1])
    dx, dgamma, dbeta = impl.batch_norm_max_pool_backward(dy, x, gamma, saved, out)
    return dx, dgamma, dbeta
