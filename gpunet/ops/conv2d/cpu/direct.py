"""Direct convolution: plain loops, for groups with few channels."""

from __future__ import annotations

import numpy as np

from gpunet.ops._numba import jit, prange
from gpunet.ops.conv2d.cpu.epilogue import add_bias


@jit
def convolution(x, weight, trans_weight, bias, taps_y, taps_x, groups, y):
    """y = convolution of x plus bias, (C_out,) or empty; with `trans_weight`, x is dy and y is dx."""
    batch, out_height, out_width, y_channels = y.shape
    kernel_h, kernel_w, _, _ = weight.shape
    inner, outer = x.shape[3] // groups, y_channels // groups
    for task in prange(batch * out_height):
        n, i = task // out_height, task % out_height
        for j in range(out_width):
            y[n, i, j, :] = 0
            for p in range(kernel_h):
                row = taps_y[i, p]
                if row < 0:
                    continue
                for q in range(kernel_w):
                    column = taps_x[j, q]
                    if column < 0:
                        continue
                    if inner == 1 and outer == 1:  # depthwise: contiguous over the channels
                        for c in range(y_channels):
                            y[n, i, j, c] += x[n, row, column, c] * weight[p, q, 0, c]
                        continue
                    for group in range(groups):
                        for k in range(inner):
                            value = x[n, row, column, group * inner + k]
                            for o in range(outer):
                                if trans_weight:
                                    factor = weight[p, q, o, group * inner + k]
                                else:
                                    factor = weight[p, q, k, group * outer + o]
                                y[n, i, j, group * outer + o] += value * factor
        add_bias(y, n, i, bias)


@jit
def weight_gradient(x, dy, taps_y, taps_x, groups, dweight):
    """The gradient of the weights, written to `dweight`; one task per tap."""
    batch, out_height, out_width, out_channels = dy.shape
    kernel_h, kernel_w, inner, _ = dweight.shape
    outer = out_channels // groups
    for tap in prange(kernel_h * kernel_w):
        p, q = tap // kernel_w, tap % kernel_w
        total = np.zeros((inner, out_channels))
        for n in range(batch):
            for i in range(out_height):
                row = taps_y[i, p]
                if row < 0:
                    continue
                for j in range(out_width):
                    column = taps_x[j, q]
                    if column < 0:
                        continue
                    for k in range(inner):
                        for o in range(out_channels):
                            total[k, o] += x[n, row, column, o // outer * inner + k] * dy[n, i, j, o]
        dweight[p, q] = total
