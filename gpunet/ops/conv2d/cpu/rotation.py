"""The weights of the convolution that computes the input gradient."""

from __future__ import annotations

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, prange
from gpunet.ops._pack import transpose_matrix

_BLOCK = 64
"""Input channels of a task."""


@jit
def _rotate(weight, result):
    kernel_h, kernel_w, channels, out_channels = weight.shape
    taps, outer, all_channels = kernel_h * kernel_w, result.shape[2], result.shape[3]
    flat_weight, flat_result = weight.reshape(-1), result.reshape(-1)
    blocks = (channels + _BLOCK - 1) // _BLOCK
    for task in prange(taps * blocks):
        tap, first = task // blocks, task % blocks * _BLOCK
        for group in range(out_channels // outer):
            at = (tap * channels + first) * out_channels + group * outer
            to = (taps - 1 - tap) * outer * all_channels + group * channels + first
            transpose_matrix(
                *(flat_weight, at, out_channels, flat_result, to, all_channels),
                *(min(_BLOCK, channels - first), outer),
            )


def rotate_weight(weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """`weight` rotated by 180 degrees, with input and output channels of each group swapped."""
    kernel_h, kernel_w, channels, out_channels = weight.shape
    result = aligned.empty((kernel_h, kernel_w, out_channels // groups, channels * groups), weight.dtype)
    _rotate(weight, result)
    return result
