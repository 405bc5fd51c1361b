"""Convolution on the GPU. Three ways to compute it, chosen from the shapes alone by :func:`_choose`:

``gemm``
    ``kernels/conv2d_gemm.cu``: implicit GEMM, for one group of channels; the only way that tensor cores take part in,
    if the precision is ``tf32``.
``few_channels``
    The forward pass and the weight gradient of few input channels, ``few_channels_forward`` and
    ``few_channels_backward_weight`` of ``kernels/conv2d.cu``.
``direct``
    ``kernels/conv2d.cu``: direct convolution, for groups and whatever does not suit the tiles.

Where the tiles of the result alone would be too few thread blocks to fill a GPU, the reduction dimension is split into
slices, whose partial results ``kernels/column_sums.cu`` adds in order. Their number is a function of the shapes (for
``gemm`` see :mod:`.gemm_plan`), so the same arrays give the same bits on the same device.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from gpunet import cuda
from gpunet.backend import Array
from gpunet.ops.conv2d import gemm_plan
from gpunet.ops.conv2d.taps import tap_tables
from gpunet.ops.geometry import Conv2dGeometry

_GEMM_THREADS = 128  # of gemm.cuh
_FEW_TILE_M, _FEW_TILE_K = 16, 64  # of few_channels_forward and few_channels_backward_weight
_THREADS, _WARPS, _CHUNK = 256, 8, 8  # of conv2d.cu and column_sums.cu
_BLOCKS = 396
"""Blocks that a launch of column_sums or direct_backward_weight should have: three a multiprocessor of an H100."""
_MAX_SLICES = 88
"""Of a weight gradient by gemm."""
_FEW_BLOCKS = 528
"""Blocks that a launch of few_channels kernels should at most have: the four that an H100's multiprocessors hold."""
_FEW_ROWS = 16
"""So many rows of a matrix are added by a thread for four columns: the most slices where a bias is added, too."""
_ROWS_OF_A_BLOCK = 256
"""So many rows are summed by one thread block: fewer are not worth a second launch."""
_MAX_PHASES = 64
"""Of a strided input gradient by gemm, which has a layer of blocks for each."""


def _choose(direction: str, g: Conv2dGeometry) -> str:
    """The algorithm for ``forward``, ``backward_x`` or ``backward_weight``."""
    if g.groups > 1:
        return "direct"
    rows = math.prod(g.weight_shape[:3])
    if direction == "backward_weight":
        return "few_channels" if rows <= 2 * _FEW_TILE_M else "gemm"  # of the 64 rows of a GEMM tile
    if direction == "backward_x":
        return "gemm" if math.prod(g.stride) <= _MAX_PHASES else "direct"
    return "few_channels" if rows <= _FEW_TILE_M else "gemm"


# --- sizes ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _shape(g: Conv2dGeometry) -> dict[str, int]:
    """The kernels' ``ConvShape``."""
    return {
        "batch": g.batch,
        "height": g.height,
        "width": g.width,
        "in_channels": g.in_channels,
        "out_height": g.out_height,
        "out_width": g.out_width,
        "out_channels": g.out_channels,
        "kernel_h": g.kernel[0],
        "kernel_w": g.kernel[1],
        "stride_h": g.stride[0],
        "stride_w": g.stride[1],
        "pad_top": g.padding[0],
        "pad_left": g.padding[2],
        "dilation_h": g.dilation[0],
        "dilation_w": g.dilation[1],
        "groups": g.groups,
    }


@functools.lru_cache(maxsize=256)
def _valid_taps(g: Conv2dGeometry) -> tuple[int, float]:
    """How many taps are inside the input for any output pixel, and the share of all (pixel, tap) pairs that are."""
    rows, columns = (table >= 0 for table in tap_tables(g)[0])
    return int(rows.any(0).sum() * columns.any(0).sum()), float(rows.mean() * columns.mean())


def _images_innermost(g: Conv2dGeometry) -> bool:
    """Whether the M index of the GEMM is (row, column, image), and not (image, row, column).

    With the former a tile's rows are the images at one pixel, whose taps on the padding are cut off; with the latter
    they are contiguous pixels, whose taps share the first-level cache: it is taken where less than an eighth of the
    work is on the padding.
    """
    return _valid_taps(g)[1] < 7 / 8


def _precision(x: Array) -> str:
    """Of a product with `x`, as :mod:`.gemm_plan` names it."""
    return gemm_plan.precision_name(x.dtype, cuda.cuda_backend_of(x).precision)


def _gemm(kernel: str, plan: gemm_plan.Plan, layers: int, *args: Any, real: Any) -> None:
    defines: dict[str, Any] = {"TF32": "1"} if _precision(args[0]) == "tf32" else {}
    defines |= {"TILE_M": str(plan.tile[0]), "TILE_N": str(plan.tile[1])}
    grid = *plan.tiles, layers * plan.slices
    cuda.launch("conv2d_gemm", kernel, grid, _GEMM_THREADS, *args, real=real, **defines)


def _k(g: Conv2dGeometry, channels: int) -> int:
    """Mean length of the sums over taps and `channels`."""
    taps, inside = _valid_taps(g)
    return math.ceil((math.prod(g.kernel) * inside if _images_innermost(g) else taps) * channels)


# --- sums over rows ---------------------------------------------------------------------------------------------------


def _column_sums(x: Array, rows: int, slices: int, out: Array) -> Array:
    """out[slice] = the sum over a slice of the rows of x (rows, columns)."""
    columns = out.size // slices
    slice_rows = max(1, cuda.ceil_div(rows, slices))
    warps = max(1, min(_WARPS, cuda.ceil_div(slice_rows, _CHUNK)))
    grid, args = (cuda.ceil_div(columns, 32), slices), (x, out, rows, columns, slice_rows)
    cuda.launch("column_sums", "column_sums", grid, (32, warps), *args, real=x.dtype)
    return out


def _add_slices(partial: Array, out: Array, start: Array | None = None) -> Array:
    """out = the sum over the first axis of `partial`, in order.

    `start`, for _FEW_ROWS slices at most, is added: repeated along the columns.
    """
    slices = len(partial)
    if slices > _FEW_ROWS:
        assert start is None
        return column_sums(partial.reshape(slices, -1), out)
    period = 1 if start is None else start.size
    grid = cuda.ceil_div(cuda.ceil_div(out.size, 4), _THREADS)
    args = partial, start, out, slices, out.size, period
    cuda.launch("column_sums", "add_rows", grid, _THREADS, *args, real=out.dtype)
    return out


def column_sums(x: Array, out: Array | None = None) -> Array:
    """Sums over the rows of a C-contiguous (M, C) matrix, as (C,) of its dtype; in `out` if given."""
    rows, columns = x.shape
    total = cuda.empty(columns, x.dtype, x) if out is None else out
    slices = max(1, min(cuda.ceil_div(rows, _ROWS_OF_A_BLOCK), _BLOCKS // cuda.ceil_div(columns, 32)))
    if slices == 1:
        return _column_sums(x, rows, 1, total)
    partial = _column_sums(x, rows, slices, cuda.empty((slices, columns), x.dtype, x))
    return _column_sums(partial, slices, 1, total)


def _few_channels_slices(g: Conv2dGeometry, tiles: int) -> tuple[int, int]:
    """The number of slices of the output pixels for a result of so many tiles, and the pixels of one: whole K tiles."""
    pixels = g.batch * g.out_height * g.out_width
    k_tiles = cuda.ceil_div(cuda.ceil_div(pixels, _FEW_TILE_K), max(1, _FEW_BLOCKS // tiles))
    slice_pixels = _FEW_TILE_K * max(1, k_tiles)
    return max(1, cuda.ceil_div(pixels, slice_pixels)), slice_pixels


# --- the entries that the op calls ------------------------------------------------------------------------------------


def conv2d(x: Array, weight: Array, bias: Array | None, g: Conv2dGeometry) -> Array:
    """The forward pass of :func:`gpunet.ops.conv2d.conv2d`."""
    x, weight = cuda.contiguous(x), cuda.contiguous(weight)
    bias = None if bias is None else cuda.contiguous(bias)
    y = cuda.empty(g.y_shape, x.dtype, x)
    algorithm = _choose("forward", g)
    if algorithm == "few_channels":
        blocks = cuda.ceil_div(g.out_channels, 32)
        slices, slice_pixels = _few_channels_slices(g, blocks)
        args = x, weight, bias, y, slice_pixels, _shape(g)
        cuda.launch("conv2d", "few_channels_forward", (blocks, slices), _THREADS, *args, real=x.dtype)
        return y
    if algorithm == "direct":
        vectorized = g.out_channels // g.groups % 4 == 0
        kernel, width = ("direct_forward_vec4", 4) if vectorized else ("direct_forward", 1)
        grid = cuda.ceil_div(y.size // width, _THREADS)
        cuda.launch("conv2d", kernel, grid, _THREADS, x, weight, bias, y, _shape(g), real=x.dtype)
        return y
    rows, k = y.size // g.out_channels, _k(g, g.in_channels)
    plan = gemm_plan.plan(rows, g.out_channels, k, _precision(x), max_slices=_FEW_ROWS)
    target = y if plan.slices == 1 else cuda.empty((plan.slices, *g.y_shape), x.dtype, x)
    args = x, weight, bias, target, _images_innermost(g), _shape(g)
    _gemm("gemm_forward", plan, 1, *args, real=x.dtype)
    return y if plan.slices == 1 else _add_slices(target, y, bias)


def conv2d_backward_x(dy: Array, weight: Array, g: Conv2dGeometry) -> Array:
    """The gradient of the input."""
    dy, weight = cuda.contiguous(dy), cuda.contiguous(weight)
    dx = cuda.empty(g.x_shape, dy.dtype, dy)
    if _choose("backward_x", g) == "direct":
        grid = cuda.ceil_div(dx.size, _THREADS)
        cuda.launch("conv2d", "direct_backward_x", grid, _THREADS, dy, weight, dx, _shape(g), real=dy.dtype)
        return dx
    phases = math.prod(g.stride)
    rows = g.batch * cuda.ceil_div(g.height, g.stride[0]) * cuda.ceil_div(g.width, g.stride[1])
    k, most = _k(g, g.out_channels) // phases, _FEW_ROWS
    plan = gemm_plan.plan(rows, g.in_channels, k, _precision(dy), max_slices=most, layers=phases)
    target = dx if plan.slices == 1 else cuda.empty((plan.slices, *g.x_shape), dy.dtype, dy)
    args = dy, weight, target, _images_innermost(g), _shape(g)
    _gemm("gemm_backward_x", plan, phases, *args, real=dy.dtype)
    return dx if plan.slices == 1 else _add_slices(target, dx)


def conv2d_backward_weight(dy: Array, x: Array, g: Conv2dGeometry, out: Array | None = None) -> Array:
    """The gradient of the weights, in `out` if given."""
    dy, x = cuda.contiguous(dy), cuda.contiguous(x)
    dweight = cuda.empty(g.weight_shape, x.dtype, x) if out is None else out
    return _BACKWARD_WEIGHT[_choose("backward_weight", g)](dy, x, dweight, g)


def _gemm_backward_weight(dy: Array, x: Array, dweight: Array, g: Conv2dGeometry) -> Array:
    rows, (taps, inside) = math.prod(g.weight_shape[:3]), _valid_taps(g)
    pixels = math.ceil(g.batch * g.out_height * g.out_width * inside * math.prod(g.kernel) / max(1, taps))
    busy = taps * g.in_channels
    plan = gemm_plan.plan(rows, g.out_channels, pixels, _precision(x), max_slices=_MAX_SLICES, busy_rows=busy)
    target = dweight if plan.slices == 1 else cuda.empty((plan.slices, *g.weight_shape), x.dtype, x)
    args = dy, x, target, _shape(g)
    _gemm("gemm_backward_weight", plan, 1, *args, real=x.dtype)
    return dweight if plan.slices == 1 else _add_slices(target, dweight)


def _few_channels_backward_weight(dy: Array, x: Array, dweight: Array, g: Conv2dGeometry) -> Array:
    tiles = cuda.ceil_div(g.out_channels, 32), cuda.ceil_div(math.prod(g.weight_shape[:3]), _FEW_TILE_M)
    slices, slice_pixels = _few_channels_slices(g, math.prod(tiles))
    target = dweight if slices == 1 else cuda.empty((slices, *g.weight_shape), x.dtype, x)
    args = dy, x, target, slice_pixels, _shape(g)
    cuda.launch("conv2d", "few_channels_backward_weight", (*tiles, slices), _THREADS, *args, real=x.dtype)
    return dweight if slices == 1 else _add_slices(target, dweight)


def _direct_backward_weight(dy: Array, x: Array, dweight: Array, g: Conv2dGeometry) -> Array:
    dy_rows, rows = g.batch * g.out_height, math.prod(g.weight_shape[:3])
    tiles = rows * cuda.ceil_div(g.out_channels, 32)
    slice_rows = max(_WARPS, cuda.ceil_div(dy_rows, max(1, _BLOCKS // tiles)))
    slices = cuda.ceil_div(dy_rows, slice_rows)
    target = dweight if slices == 1 else cuda.empty((slices, *g.weight_shape), x.dtype, x)
    args = dy, x, target, slice_rows, _shape(g)
    cuda.launch("conv2d", "direct_backward_weight", (tiles, slices), (32, _WARPS), *args, real=x.dtype)
    return dweight if slices == 1 else _add_slices(target, dweight)


_BACKWARD_WEIGHT = {
    "gemm": _gemm_backward_weight,
    "few_channels": _few_channels_backward_weight,
    "direct": _direct_backward_weight,
}


def conv2d_backward_bias(dy: Array, out: Array | None = None) -> Array:
    """The gradient of the bias: the sum over images and positions; in `out` if given."""
    return column_sums(cuda.contiguous(dy).reshape(-1, dy.shape[-1]), out)
