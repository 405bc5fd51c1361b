"""A convolution block in inference, one op after the other: the oracle for all other implementations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpunet.ops.activation import reference as activation
from gpunet.ops.batchnorm import reference as batchnorm
from gpunet.ops.conv2d import reference as conv
from gpunet.ops.geometry import Padding
from gpunet.ops.pool2d import reference as pool2d


def conv2d_inference(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    norm: Sequence[np.ndarray] | None = None,
    *,
    eps: float = 1e-5,
    relu: bool = False,
    max_pool: bool = False,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """See :func:`gpunet.ops.conv2d_inference.conv2d_inference`."""
    y = conv.conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if norm is not None:
        gamma, beta, mean, var = norm
        y, _ = batchnorm.batch_norm(y, gamma, beta, mean, var, training=False, eps=eps)
    if max_pool:
        y, _ = pool2d.max_pool2d(y, 2)
    return activation.relu(y) if relu else y
