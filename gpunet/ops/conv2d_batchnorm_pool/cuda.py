"""A network's first block on the GPU: the launches of its ops, one after the other."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.ops.batchnorm.parameters import BatchNormParameters
from gpunet.ops.batchnorm_pool import BatchNormMaxPoolSaved
from gpunet.ops.batchnorm_pool import cuda as batchnorm_pool
from gpunet.ops.conv2d import cuda as conv
from gpunet.ops.conv2d_batchnorm_pool import ConvBatchNormMaxPoolSaved
from gpunet.ops.geometry import Conv2dGeometry


def conv2d_batch_norm_max_pool(
    x: Array, weight: Array, parameters: BatchNormParameters, g: Conv2dGeometry, relu: bool
) -> tuple[Array, Array, Array, Array, Array]:
    maps = conv.conv2d(x, weight, None, g)
    y, mean, inv_std, argmax = batchnorm_pool.batch_norm_max_pool(maps, parameters, relu)
    return y, mean, inv_std, argmax, maps


def conv2d_batch_norm_max_pool_backward(
    dy: Array,
    x: Array,
    weight: Array,
    gamma: Array,
    saved: ConvBatchNormMaxPoolSaved,
    g: Conv2dGeometry,
    out: tuple[Array | None, Array | None, Array | None],
) -> tuple[Array, Array, Array]:
    pool_saved = BatchNormMaxPoolSaved(saved.mean, saved.inv_std, saved.argmax, True, saved.gather)
    dmaps, dgamma, dbeta = batchnorm_pool.batch_norm_max_pool_backward(dy, saved.kept, gamma, pool_saved, out[1:])
    return conv.conv2d_backward_weight(dmaps, x, g, out[0]), dgamma, dbeta
