"""The weights of the convolution that computes the input gradient."""

from __future__ import annotations

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import parallel_jit, prange


@parallel_jit
def _rotate(weight, result):
    kernel_h, kernel_w, channels, out_channels = weight.shape
    outer = result.shape[2]
    block = 16
    blocks = (channels + block - 1) // block
    for task in prange(kernel_h * kernel_w * blocks):
        tap, first = task // blocks, task % blocks * block
        p, q = tap // kernel_w, tap % kernel_w
        for o in range(out_channels):
            for c in range(first, min(first + block, channels)):
                at = o // outer * channels + c
                result[kernel_h - 1 - p, kernel_w - 1 - q, o % outer, at] = weight[p, q, c, o]


def rotate_weight(weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """`weight` rotated by 180 degrees, with input and output channels of each group swapped."""
    kernel_h, kernel_w, channels, out_channels = weight.shape
    result = aligned.empty((kernel_h, kernel_w, out_channels // groups, channels * groups), weight.dtype)
    _rotate(weight, result)
    return result
