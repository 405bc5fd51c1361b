"""Batch normalisation over all axes but the last (Ioffe & Szegedy, Batch Normalization, 2015, arXiv:1502.03167)."""

from __future__ import annotations

from typing import NamedTuple

from gpunet.backend import Array, Gather
from gpunet.errors import ShapeError
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows, no_sum
from gpunet.ops.batchnorm.parameters import BatchNormParameters, check_gradient


class BatchNormSaved(NamedTuple):
    """What the forward pass saves for the backward pass, besides `x`."""

    mean: Array
    """The mean, float64 (C,), that was subtracted, the batch's in training, else the running one."""
    inv_std: Array
    """1 / sqrt(variance + eps), float64 (C,)."""
    training: bool
    """Whether mean and variance are those of the batch, so that gradients flow through them."""
    gather: Gather | None = None
    """As given."""


def _check_axes(x: Array) -> None:
    if x.ndim < 2:
        raise ShapeError(f"x must have at least 2 dimensions, channels last, got shape {tuple(x.shape)}")
    if 0 in x.shape[1:]:
        raise ShapeError(f"empty maps cannot be normalised: x {tuple(x.shape)}")


def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    gather: Gather | None = None,
) -> tuple[Array, BatchNormSaved]:
    """``gamma * (x - mean) / sqrt(var + eps) + beta`` per channel (algorithm 1 of the paper).

    In training, mean and variance are those of `x` over all axes but the last, and the running statistics are updated
    **in place**, ``running = (1 - momentum) * running + momentum * batch``. Otherwise they are the running ones, which
    are left unchanged. `x` is normalised by the biased variance; `running_var` tracks the unbiased one, as in PyTorch.

    With `gather`, `x` is one of several equal parts of a batch: in training, mean and variance are those of all parts,
    combined in their order, so that all get the same bits. The backward pass then also meets the other parts.

    Args:
        x: (..., C) of rank 2 or more, float32 or float64.
        gamma, beta, running_mean, running_var: (C,), dtype of `x`.
        momentum: weight of the batch statistics in the running ones, 0 to 1.
        eps: added to the variance, positive.
        gather: takes float64 (2, C): the mean of this part and its sum of squared deviations from that; in the backward
            pass, its sums of dy and of dy * (x - mean).

    Returns:
        (y, saved): y has the shape and dtype of `x`; saved is for :func:`batch_norm_backward`.

    Raises:
        ShapeError: shapes do not match, or training with a single value per channel, whose variance is undefined.
        DTypeError: not float32 or float64, or mixed dtypes.
        ConfigError: `momentum` or `eps` is out of range.
        DeviceError: the arrays are on different devices.

    >>> x = np.float32([[1], [3]])
    >>> gamma, beta, mean, var = np.ones((4, 1), np.float32)
    >>> y, saved = gn.ops.batch_norm(x, gamma, beta, mean, var, training=True, momentum=0.5, eps=1e-10)
    >>> y.ravel()  # -1 and 1, plus beta
    array([0., 2.], dtype=float32)
    >>> mean, var  # halfway between 1 and those of the batch, 2 and 2
    (array([1.5], dtype=float32), array([1.5], dtype=float32))
    """
    impl = implementation(__name__, x, gamma, beta, running_mean, running_var)
    _check_axes(x)
    given = BatchNormParameters(gamma, beta, running_mean, running_var, training, momentum, eps, gather)
    parameters = given.checked(x)
    if not x.size:
        return no_rows(x.shape, x), BatchNormSaved(*parameters.running_statistics(), False)
    y, mean, inv_std = impl.batch_norm(x, parameters)
    return y, BatchNormSaved(mean, inv_std, parameters.training, gather)


def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    saved: BatchNormSaved,
    *,
    out: tuple[Array | None, Array | None] = (None, None),
) -> tuple[Array, Array, Array]:
    """Gradients of :func:`batch_norm` (the paper's section 3); in training, also through the batch statistics.

    With ``saved.gather``, dgamma and dbeta are the contributions of this part; dx has those of all to its gradient.

    Args:
        dy: gradient of y, shape of `x`.
        x, gamma: as passed to the forward pass.
        saved: as returned by the forward pass.
        out: C-contiguous arrays to write dgamma and dbeta to, which are then returned; None: new arrays.

    Returns:
        (dx, dgamma, dbeta), with the shapes of x, gamma and beta and the dtype of `x`.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays do not match.

    >>> x = np.float32([[1], [3]])
    >>> gamma, beta, mean, var = np.ones((4, 1), np.float32)
    >>> y, saved = gn.ops.batch_norm(x, gamma, beta, mean, var, training=True, eps=1e-10)
    >>> dx, dgamma, dbeta = gn.ops.batch_norm_backward(np.float32([[2], [5]]), x, gamma, saved)
    >>> dgamma, dbeta  # 2 * -1 + 5 * 1, 2 + 5
    (array([3.], dtype=float32), array([7.], dtype=float32))
    """
    impl = implementation(__name__, dy, x, gamma, saved.mean, saved.inv_std, *out)
    _check_axes(x)
    check_gradient(dy, x.shape, x, gamma, saved.mean, saved.inv_std, out)
    if not x.size:
        return no_rows(x.shape, x), no_sum(gamma.shape, x, out[0]), no_sum(gamma.shape, x, out[1])
    about = saved.mean, saved.inv_std, saved.training, saved.gather
    dx, dgamma, dbeta = impl.batch_norm_backward(dy, x, gamma, *about, out)
    return dx, dgamma, dbeta
