"""Convolution on the CPU. Eight algorithms, selected by shape in :func:`_choose`:

``matmul``
    1x1 kernels: a single matrix product.
``winograd``
    3x3 and 5x5 kernels at stride 1: fewer multiplications, in exchange for transforms of the maps and the weights.
``fft``
    Kernels of 5x5 and more at stride 1, and 3x3 on maps that just fit: the same with other transforms, fewer
    multiplications still and smaller rounding errors, but more transformed weights.
``register_tiling``
    Implicit GEMM with its accumulators in registers, over input rows in the L1 cache. The fastest algorithm that
    computes the sums as defined.
``strided``
    The same for the input gradient with strides, phase by phase.
``tap_gemm``
    One GEMM over a block of images per output position and tap; taps on the padding are skipped.
``col2im``
    The input gradient for few input channels: a GEMM whose result is scattered back to the patches.
``direct``
    Plain loops, for groups of so few channels that a GEMM call would cost more than its work.

Groups are computed by direct, register_tiling, strided and, forward, winograd and fft. Three more cases reduce to
these. ``convolution``: the input gradient at stride 1 is the convolution of dy with the rotated weights. ``phases``:
dilated convolution is that of the phases of the maps, if winograd or fft computes that. ``merged_groups``: groups too
narrow for winograd are computed in pairs.

``tap_gemm`` and ``direct`` are driven by the tables of :mod:`gpunet.ops.conv2d.taps`. They also compute any
input gradient, with the maps swapped, the tables inverted and the weights transposed.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.ops._blas import gemm_address
from gpunet.ops._matmul import matmul
from gpunet.ops._reduce import column_sums
from gpunet.ops.conv2d.cpu import (
    col2im,
    direct,
    fft,
    fft_tiling,
    phases,
    register_tiling,
    strided,
    tap_gemm,
    winograd,
)
from gpunet.ops.conv2d.cpu.epilogue import Epilogue, clear_taps, finish_maps
from gpunet.ops.conv2d.cpu.merged_groups import merged_weights, of_merged_groups
from gpunet.ops.conv2d.cpu.rotation import rotate_weight
from gpunet.ops.conv2d.cpu.winograd_tiles import multiplications, small_tile_of
from gpunet.ops.conv2d.taps import tap_tables, transposed, without_dead_taps
from gpunet.ops.geometry import Conv2dGeometry
from gpunet.recording import run

_SMALL_MAP, _SMALL_BATCH, _FEW_WEIGHTS = 12, 16, 2**13
"""Up to this many output positions, ``tap_gemm`` beats ``register_tiling``, unless images (or weights) are few."""
_SMALL_PHASE = 32
"""Up to this many positions of a phase, ``tap_gemm`` beats ``strided``."""
_FEW_CHANNELS = 4


def _choose(direction: str, g: Conv2dGeometry) -> str:
    """The algorithm for ``"forward"``, ``"backward_x"`` or ``"backward_weight"``; thresholds measured on Zen 3."""
    inner, outer = g.weight_shape[2], g.out_channels // g.groups
    if g.groups > 1 and inner * outer <= 64:
        return "direct"
    if g.groups > 1 and direction == "backward_weight":
        return "register_tiling"
    whole = (g.out_height, g.out_width) == (g.height, g.width)  # not only what windows take
    if g.kernel == g.stride == (1, 1) and g.groups == 1 and not any(g.padding) and whole:
        return "matmul"
    if direction == "backward_x" and inner <= _FEW_CHANNELS and g.groups == 1:
        return "col2im"
    if direction == "backward_x" and transposed(g) is not None:
        return "convolution"
    if direction == "backward_x":
        phase = -(-g.height // g.stride[0]) * -(-g.width // g.stride[1])
        return "tap_gemm" if phase <= _SMALL_PHASE and g.groups == 1 else "strided"
    if (transformed := _transformed(g)) is not None:
        return transformed
    plain = phases.of_phases(g)
    if plain is not None and _transformed(plain) is not None:
        return "phases"
    if of_merged_groups(g) is not None:
        return "merged_groups"
    large_map = g.out_height * g.out_width > _SMALL_MAP
    weights = g.kernel[0] * g.kernel[1] * inner * outer
    few = g.batch < _SMALL_BATCH if direction == "forward" else weights <= _FEW_WEIGHTS
    return "register_tiling" if large_map or few or g.groups > 1 else "tap_gemm"


@functools.lru_cache(maxsize=1024)
def _transformed(g: Conv2dGeometry) -> str | None:
    """``"fft"`` or ``"winograd"``, if one of them pays off.

    The FFT is compared with smaller tiles of Winograd's: large ones take fewer multiplications, but as much time, and
    its errors are smaller.
    """
    winograd_pays = winograd.applies(g) and winograd.pays_off(g)
    others = multiplications(g, small_tile_of(g)) if winograd_pays else None
    if fft_tiling.applies(g) and fft_tiling.pays_off(g, others):
        return "fft"
    return "winograd" if winograd_pays else None


def _image_block(g: Conv2dGeometry, out_height: int) -> int:
    """Images per task of ``tap_gemm``: GEMMs of 128 rows keep BLAS efficient; 64 if there would be too few tasks."""
    return 128 if -(-g.batch // 128) * out_height >= 4 else 64


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, g: Conv2dGeometry) -> np.ndarray:
    """The forward pass of :func:`gpunet.ops.conv2d.conv2d`."""
    g, (rows, columns) = without_dead_taps(g)
    x, weight = contiguous(x), contiguous(weight[rows, columns])
    bias = np.empty(0, x.dtype) if bias is None else contiguous(bias)
    y = aligned.empty(g.y_shape, x.dtype)
    _convolve(x, weight, bias, g, y)
    return y


@functools.lru_cache(maxsize=256)
def _within_windows(g: Conv2dGeometry, window: int) -> tuple[Conv2dGeometry, tuple[slice, slice]]:
    """The part of a convolution that whole windows take, without dead taps, and which taps remain.

    An odd last row or column is in no window.
    """
    part = replace(g, out_height=g.out_height // window * window, out_width=g.out_width // window * window)
    return without_dead_taps(part)


def conv2d_and_epilogue(x: np.ndarray, weight: np.ndarray, epilogue: Epilogue, g: Conv2dGeometry) -> np.ndarray:
    """`epilogue` of the convolution."""
    window = epilogue.window
    g, taps = _within_windows(g, window)
    algorithm = _choose("forward", g)
    y = aligned.empty((g.batch, g.out_height // window, g.out_width // window, g.out_channels), x.dtype)
    x, weight, no_bias = contiguous(x), contiguous(weight[taps]), np.empty(0, x.dtype)
    if algorithm == "register_tiling":
        register_tiling.convolution(x, weight, no_bias, g, y, epilogue)
    elif algorithm == "winograd" and winograd.keeps_images_in_cache(g):
        winograd.convolution(x, weight, no_bias, g, y, epilogue)
    elif algorithm == "fft" and fft_tiling.keeps_images_in_cache(g):
        fft.convolution(x, weight, no_bias, g, y, epilogue)
    else:
        sums = y if window == 1 else aligned.empty(g.y_shape, x.dtype)
        _convolve(x, weight, no_bias, g, sums)
        finish_maps(sums, epilogue, y)
    return y


def _phases_of(g: Conv2dGeometry) -> Conv2dGeometry:
    plain = phases.of_phases(g)
    assert plain is not None
    return plain


def _convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, g: Conv2dGeometry, y: np.ndarray) -> None:
    algorithm = _choose("forward", g)
    if algorithm == "matmul":
        rows = x.reshape(-1, g.in_channels)
        matmul(rows, weight[0, 0], bias=bias if bias.size else None, out=y.reshape(-1, g.out_channels))
    elif algorithm == "winograd":
        winograd.convolution(x, weight, bias, g, y)
    elif algorithm == "fft":
        fft.convolution(x, weight, bias, g, y)
    elif algorithm == "phases":
        plain = _phases_of(g)
        outputs = aligned.empty(plain.y_shape, x.dtype)
        _convolve(phases.split(x, g, plain.height, plain.width), weight, bias, plain, outputs)
        phases.merge(outputs, g, y)
    elif algorithm == "merged_groups":
        merged = of_merged_groups(g)
        assert merged is not None
        winograd.convolution(x, merged_weights(weight, g), bias, merged, y)
    elif algorithm == "register_tiling":
        register_tiling.convolution(x, weight, bias, g, y)
    else:
        taps_y, taps_x = tap_tables(g)[0]
        if algorithm == "direct":
            direct.convolution(x, weight, 0, bias, taps_y, taps_x, g.groups, y)
        else:
            block = _image_block(g, g.out_height)
            tap_gemm.convolution(gemm_address(x.dtype), x, weight, 0, bias, taps_y, taps_x, block, y)


def conv2d_backward_x(dy: np.ndarray, weight: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    """The gradient of the input."""
    g, (kernel_rows, kernel_columns) = without_dead_taps(g)
    dy, weight = contiguous(dy), contiguous(weight[kernel_rows, kernel_columns])
    no_bias = np.empty(0, dy.dtype)
    dx = aligned.empty(g.x_shape, dy.dtype)
    algorithm, as_convolution = _choose("backward_x", g), transposed(g)
    taps_y, taps_x = tap_tables(g)[1]
    if algorithm == "matmul":
        matmul(dy.reshape(-1, g.out_channels), weight[0, 0], trans_b=True, out=dx.reshape(-1, g.in_channels))
    elif algorithm == "col2im":
        col2im.input_gradient(dy, weight, g, dx)
    elif algorithm == "convolution" and as_convolution is not None:
        _convolve(dy, rotate_weight(weight, g.groups), no_bias, as_convolution, dx)
    elif algorithm == "strided":
        strided.input_gradient(dy, weight, g, dx)
    elif algorithm == "direct":
        direct.convolution(dy, weight, 1, no_bias, taps_y, taps_x, g.groups, dx)
    else:
        block = _image_block(g, g.height)
        tap_gemm.convolution(gemm_address(dy.dtype), dy, weight, 1, no_bias, taps_y, taps_x, block, dx)
    return dx


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, g: Conv2dGeometry, out: np.ndarray | None = None
) -> np.ndarray:
    """The gradient of the weights, in `out` if given."""
    dy, x = contiguous(dy), contiguous(x)
    dweight = aligned.empty(g.weight_shape, x.dtype) if out is None else out
    live, (kernel_rows, kernel_columns) = without_dead_taps(g)
    if live.kernel == g.kernel:
        _weight_gradient(x, dy, g, dweight)
    else:
        clear_taps(dweight, kernel_rows.start, kernel_rows.stop, kernel_columns.start, kernel_columns.stop)
        part = dweight[kernel_rows, kernel_columns]
        if part.flags.c_contiguous:
            _weight_gradient(x, dy, live, part)
        else:
            run(np.copyto, part, conv2d_backward_weight(dy, x, live))
    return dweight


def _weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    algorithm = _choose("backward_weight", g)
    taps_y, taps_x = tap_tables(g)[0]
    if algorithm == "matmul":
        flat_x, flat_dy = x.reshape(-1, g.in_channels), dy.reshape(-1, g.out_channels)
        matmul(flat_x, flat_dy, trans_a=True, out=dweight[0, 0])
    elif algorithm == "winograd":
        winograd.weight_gradient(x, dy, g, dweight)
    elif algorithm == "fft":
        fft.weight_gradient(x, dy, g, dweight)
    elif algorithm == "phases":
        plain = _phases_of(g)
        x, dy = phases.split(x, g, plain.height, plain.width), phases.split(dy, g, plain.out_height, plain.out_width)
        _weight_gradient(x, dy, plain, dweight)
    elif algorithm == "register_tiling":
        register_tiling.weight_gradient(x, dy, g, dweight)
    elif algorithm == "direct":
        direct.weight_gradient(x, dy, taps_y, taps_x, g.groups, dweight)
    else:
        tap_gemm.weight_gradient(gemm_address(x.dtype), x, dy, taps_y, taps_x, 128, dweight)


def conv2d_backward_bias(dy: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The gradient of the bias: the sum over images and positions; in `out` if given."""
    return column_sums(contiguous(dy).reshape(-1, dy.shape[-1]), out)
