"""A network's first block: the oracle for all other implementations, one op after the other."""

from __future__ import annotations

import numpy as np

from gpunet.backend import Gather
from gpunet.ops.batchnorm_pool import BatchNormMaxPoolSaved
from gpunet.ops.batchnorm_pool import reference as batchnorm_pool
from gpunet.ops.conv2d import reference as conv
from gpunet.ops.conv2d_batchnorm_pool import ConvBatchNormMaxPoolSaved
from gpunet.ops.geometry import Padding


def conv2d_batch_norm_max_pool(
    x: np.ndarray,
    weight: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    *,
    padding: Padding = 0,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
    gather: Gather | None = None,
) -> tuple[np.ndarray, ConvBatchNormMaxPoolSaved]:
    """See :func:`gpunet.ops.conv2d_batchnorm_pool.conv2d_batch_norm_max_pool`."""
    maps = conv.conv2d(x, weight, None, padding=padding)
    y, saved = batchnorm_pool.batch_norm_max_pool(
        *(maps, gamma, beta, running_mean, running_var),
        training=True,
        momentum=momentum,
        eps=eps,
        relu=relu,
        gather=gather,
    )
    return y, ConvBatchNormMaxPoolSaved(saved.mean, saved.inv_std, saved.argmax, maps, gather)


def conv2d_batch_norm_max_pool_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    gamma: np.ndarray,
    saved: ConvBatchNormMaxPoolSaved,
    *,
    padding: Padding = 0,
    out: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None] = (None, None, None),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See :func:`gpunet.ops.conv2d_batchnorm_pool.conv2d_batch_norm_max_pool_backward`."""
    pool_saved = BatchNormMaxPoolSaved(saved.mean, saved.inv_std, saved.argmax, True, saved.gather)
    dmaps, dgamma, dbeta = batchnorm_pool.batch_norm_max_pool_backward(dy, saved.kept, gamma, pool_saved, out=out[1:])
    dweight = conv.conv2d_backward(dmaps, x, weight, padding=padding, out=(out[0], None))[1]
    assert dweight is not None
    return dweight, dgamma, dbeta
