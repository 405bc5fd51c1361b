"""Batch normalisation followed by max pooling: the oracle for all other implementations."""

from __future__ import annotations

import numpy as np

from gpunet.backend import Gather
from gpunet.ops.batchnorm import BatchNormSaved
from gpunet.ops.batchnorm import reference as batchnorm
from gpunet.ops.batchnorm_pool import NO_TAP, BatchNormMaxPoolSaved
from gpunet.ops.pool2d import reference as pool2d


def batch_norm_max_pool(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    gather: Gather | None = None,
) -> tuple[np.ndarray, BatchNormMaxPoolSaved]:
    """See :func:`gpunet.ops.batchnorm_pool.batch_norm_max_pool`."""
    normalised, saved = batchnorm.batch_norm(
        x, gamma, beta, running_mean, running_var, training=training, momentum=momentum, eps=eps, gather=gather
    )
    y, argmax = pool2d.max_pool2d(normalised, 2)
    if relu:
        argmax[y <= 0] = NO_TAP
        y[y <= 0] = 0
    return y, BatchNormMaxPoolSaved(saved.mean, saved.inv_std, argmax, training, gather)


def batch_norm_max_pool_backward(
    dy: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    saved: BatchNormMaxPoolSaved,
    *,
    out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See :func:`gpunet.ops.batchnorm_pool.batch_norm_max_pool_backward`."""
    dnormalised = pool2d.max_pool2d_backward(dy, saved.argmax, x.shape, 2)
    norm_saved = BatchNormSaved(saved.mean, saved.inv_std, saved.training, saved.gather)
    return batchnorm.batch_norm_backward(dnormalised, x, gamma, norm_saved, out=out)
