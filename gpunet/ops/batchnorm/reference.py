"""Batch normalisation by definition: the oracle for all other implementations."""

from __future__ import annotations

import numpy as np

from gpunet.backend import Gather
from gpunet.ops._reference import stored
from gpunet.ops.batchnorm import BatchNormSaved


def batch_norm(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    gather: Gather | None = None,
) -> tuple[np.ndarray, BatchNormSaved]:
    """See :func:`gpunet.ops.batchnorm.batch_norm`; computes in float64."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean, var = running_mean.astype(np.float64), running_var.astype(np.float64)
    if training:
        mean = rows.mean(0)
        var = ((rows - mean) ** 2).mean(0)
        count = len(rows)
        if gather is not None:
            means, squares = np.moveaxis(gather(np.stack([mean, var * count])), 1, 0)
            mean = means.mean(0)
            var = (squares / count + (means - mean) ** 2).mean(0)
            count *= len(means)
        unbiased = var * count / (count - 1)
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
        running_var[...] = (1 - momentum) * running_var + momentum * unbiased
    inv_std = 1 / np.sqrt(var + eps)
    y = gamma * (rows - mean) * inv_std + beta
    return y.reshape(x.shape).astype(x.dtype), BatchNormSaved(mean, inv_std, training, gather)


def batch_norm_backward(
    dy: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    saved: BatchNormSaved,
    *,
    out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See :func:`gpunet.ops.batchnorm.batch_norm_backward`; computes in float64, step by step as in the paper."""
    rows, drows = (array.reshape(-1, x.shape[-1]).astype(np.float64) for array in (x, dy))
    centred = rows - saved.mean
    dgamma, dbeta = (drows * centred * saved.inv_std).sum(0), drows.sum(0)
    dnormalised = drows * gamma
    dx = dnormalised * saved.inv_std
    if saved.training:
        total, product, count = drows.sum(0), (drows * centred).sum(0), len(rows)
        if saved.gather is not None:
            parts = saved.gather(np.stack([total, product]))
            (total, product), count = parts.sum(0), count * len(parts)
        dvar = gamma * product * -0.5 * saved.inv_std**3
        dmean = -gamma * total * saved.inv_std  # the deviations of all rows add up to zero
        dx += dvar * 2 * centred / count + dmean / count
    dgamma, dbeta = stored(dgamma.astype(x.dtype), out[0]), stored(dbeta.astype(x.dtype), out[1])
    return dx.reshape(x.shape).astype(x.dtype), dgamma, dbeta
