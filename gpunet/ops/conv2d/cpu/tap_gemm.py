"""Convolution as one GEMM over a block of images per output position and tap.

The rows of a GEMM are the images of a block, which are at a fixed stride in memory: nothing is copied, and taps on the
padding cost nothing. Adjacent taps of a kernel row are merged into one GEMM if their channels are contiguous.
"""

from __future__ import annotations

from gpunet.ops._blas import gemm
from gpunet.ops._numba import jit, prange
from gpunet.ops.conv2d.cpu.epilogue import add_bias


@jit
def convolution(address, x, weight, trans_weight, bias, taps_y, taps_x, block, y):
    """y = convolution of x plus bias, (C_out,) or empty; with `trans_weight`, x is dy and y is dx."""
    batch, height, width, x_channels = x.shape
    out_height, out_width, y_channels = y.shape[1], y.shape[2], y.shape[3]
    kernel_h, kernel_w, weight_in, weight_out = weight.shape
    size = x.itemsize
    x_image, y_image = height * width * x_channels, out_height * out_width * y_channels
    for task in prange(((batch + block - 1) // block) * out_height):
        first = task // out_height * block
        images = min(block, batch - first)
        i = task % out_height
        for j in range(out_width):
            beta = x.dtype.type(0)
            for p in range(kernel_h):
                row = taps_y[i, p]
                if row < 0:
                    continue
                q = 0
                while q < kernel_w:
                    column = taps_x[j, q]
                    run = 1
                    if column >= 0:
                        # merge taps that are adjacent in memory, in both the map and the weights
                        while trans_weight == 0 and q + run < kernel_w and taps_x[j, q + run] == column + run:
                            run += 1
                        gemm(
                            address,
                            0,
                            trans_weight,
                            images,
                            y_channels,
                            run * x_channels,
                            x.ctypes.data + (first * x_image + (row * width + column) * x_channels) * size,
                            x_image,
                            weight.ctypes.data + (p * kernel_w + q) * weight_in * weight_out * size,
                            weight_out,
                            beta,
                            y.ctypes.data + (first * y_image + (i * out_width + j) * y_channels) * size,
                            y_image,
                        )
                        beta = x.dtype.type(1)
                    q += run
            if beta == 0:  # all taps are on the padding
                for n in range(first, first + images):
                    y[n, i, j, :] = 0
        for n in range(first, first + images):
            add_bias(y, n, i, bias)


@jit
def weight_gradient(address, x, dy, taps_y, taps_x, block, dweight):
    """The gradient of the weights, written to `dweight`; one task per tap and block of output channels."""
    batch, height, width, in_channels = x.shape
    out_height, out_width, out_channels = dy.shape[1], dy.shape[2], dy.shape[3]
    kernel_h, kernel_w = dweight.shape[0], dweight.shape[1]
    blocks = (out_channels + block - 1) // block
    size = x.itemsize
    x_image, y_image = height * width * in_channels, out_height * out_width * out_channels
    for task in prange(kernel_h * kernel_w * blocks):
        tap, channel = task // blocks, task % blocks * block
        p, q = tap // kernel_w, tap % kernel_w
        channels = min(block, out_channels - channel)
        beta = x.dtype.type(0)
        for i in range(out_height):
            row = taps_y[i, p]
            if row < 0:
                continue
            for j in range(out_width):
                column = taps_x[j, q]
                if column < 0:
                    continue
                gemm(
                    address,
                    1,
                    0,
                    in_channels,
                    channels,
                    batch,
                    x.ctypes.data + (row * width + column) * in_channels * size,
                    x_image,
                    dy.ctypes.data + ((i * out_width + j) * out_channels + channel) * size,
                    y_image,
                    beta,
                    dweight.ctypes.data + (tap * in_channels * out_channels + channel) * size,
                    out_channels,
                )
                beta = x.dtype.type(1)
        if beta == 0:
            dweight[p, q, :, channel : channel + channels] = 0
