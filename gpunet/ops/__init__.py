"""Stateless maths on raw NumPy or CuPy arrays: the only device-specific layer.

Images are NHWC, convolution weights HWIO, linear weights (in, out). Every op has ``name(...)`` and
``name_backward(...)``. None writes to its inputs, except for the documented in-place updates (optimisers, batch norm's
running statistics, training state), and none moves an array between devices.

A batch may have no rows (N = 0): then neither do the results, and the gradients of parameters are zero. Only a mean
over no rows has no value: batch norm in training and the mean loss raise ShapeError. So does any other empty axis that
an op sums or takes windows over.
"""

from gpunet.ops import activation
from gpunet.ops.activation import *
from gpunet.ops.batchnorm import batch_norm, batch_norm_backward
from gpunet.ops.batchnorm_pool import batch_norm_max_pool, batch_norm_max_pool_backward
from gpunet.ops.conv2d import conv2d, conv2d_backward
from gpunet.ops.conv2d_batchnorm_pool import conv2d_batch_norm_max_pool, conv2d_batch_norm_max_pool_backward
from gpunet.ops.conv2d_inference import conv2d_inference
from gpunet.ops.cross_entropy import count_correct, log_softmax, softmax, softmax_cross_entropy
from gpunet.ops.dropout import dropout, dropout_backward
from gpunet.ops.elementwise_loss import binary_cross_entropy_with_logits, huber_loss, mse_loss
from gpunet.ops.gather import gather_batch, gather_targets
from gpunet.ops.linear import linear, linear_backward
from gpunet.ops.optimizer import adam_update, ema_update, gradient_scale, sgd_update
from gpunet.ops.pool2d import (
    avg_pool2d,
    avg_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from gpunet.ops.shards import record_shard, sum_shards, weigh_shards
from gpunet.ops.step_state import advance_step

__all__ = [
    "adam_update",
    "advance_step",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_max_pool",
    "batch_norm_max_pool_backward",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv2d_backward",
    "conv2d_batch_norm_max_pool",
    "conv2d_batch_norm_max_pool_backward",
    "conv2d_inference",
    "count_correct",
    "dropout",
    "dropout_backward",
    "ema_update",
    "gather_batch",
    "gather_targets",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "gradient_scale",
    "huber_loss",
    "linear",
    "linear_backward",
    "log_softmax",
    "max_pool2d",
    "max_pool2d_backward",
    "mse_loss",
    "record_shard",
    "sgd_update",
    "softmax",
    "softmax_cross_entropy",
    "sum_shards",
    "weigh_shards",
]
__all__ += activation.__all__
