# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs
# mypy: no-warn-unreachable, disable-error-code="call-arg"
# Numba kernels take no annotations: Numba infers the types.
"""Convolution with sums in registers, where the weights are so small that BLAS would spend its time on packing.

The rows of the input that some output rows of an image meet are copied into a small buffer with their padding. There
term t (a tap and an input channel) of output position m lies at ``positions[m] + terms[t]``. One micro-kernel adds up
outer products of such entries with contiguous vectors: over the terms with the weights for the output, over the
positions with dy for the gradient of the weights. The gradient of the input is dy times the weights by BLAS, added up
where the terms came from (col2im).

Source of the micro-kernel: Van Zee & van de Geijn, BLIS: A Framework for Rapidly Instantiating BLAS Functionality,
ACM TOMS, 2015.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._blas import gemm, gemm_address
from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops.conv2d._sums import add_pieces
from gpunet.ops.conv2d._taps import tap_tables
from gpunet.ops.geometry import Conv2dGeometry

_ROWS, _VECTORS, _VECTOR_BYTES = 4, 2, 32
"""Sums of the micro-kernel: eight AVX registers, as many as hide the latency of two units for multiply-adds."""
_BLOCK_BYTES = _VECTORS * _VECTOR_BYTES
_POSITIONS = 256
"""Output positions of a task, about: what the micro-kernel reads again and again stays in the L1 cache."""
_CHUNK = 32
"""Positions that the weight gradient adds up at a time: as many as find room in the L1 cache at 512 bytes' distance."""
_PIECES = 32
"""Partial sums of the weight gradient: a constant, so that results do not depend on the number of threads."""


@intrinsic
def _add_outer_products(
    typing_context: Any,
    values: Any,
    rows: Any,
    offsets: Any,
    vectors: Any,
    first: Any,
    step: Any,
    start: Any,
    start_first: Any,
    start_step: Any,
    result: Any,
    result_first: Any,
    result_step: Any,
) -> Any:
    """result[r, :] = start[r, :] + sum over k of values[rows[r] + offsets[k]] * vectors[k, :], for r < _ROWS.

    All arrays are flat and contiguous. The row r of `result` is the _BLOCK_BYTES from the element result_first +
    r * result_step; those of `start` and `vectors` likewise. Nothing is checked.
    """
    index = types.intp
    signature = types.void(
        values,
        types.UniTuple(index, _ROWS),
        offsets,
        *(vectors, index, index),
        *(start, index, index),
        *(result, index, index),
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        real = context.get_data_type(values.dtype)
        itemsize = values.dtype.bitwidth // 8
        lanes = _VECTOR_BYTES // itemsize
        vector = ir.VectorType(real, lanes)
        tile = [(r, v) for r in range(_ROWS) for v in range(_VECTORS)]

        def array(at: int) -> Any:
            return context.make_array(signature.args[at])(context, builder, args[at])

        def address(at: int, row: Any, v: int) -> Any:
            """Where vector v of a row of the matrix begins that the three arguments from `at` describe."""
            element = builder.add(args[at + 1], builder.mul(args[at + 2], row))
            element = builder.add(element, ir.Constant(element.type, v * lanes))
            return builder.bitcast(builder.gep(array(at).data, [element]), vector.as_pointer())

        def constant(r: int) -> Any:
            return ir.Constant(context.get_value_type(index), r)

        def broadcast(value: Any) -> Any:
            undefined, integer = ir.Constant(vector, ir.Undefined), ir.IntType(32)
            lane = builder.insert_element(undefined, value, ir.Constant(integer, 0))
            return builder.shuffle_vector(lane, undefined, ir.Constant(ir.VectorType(integer, lanes), [0] * lanes))

        rows = [builder.gep(array(0).data, [builder.extract_value(args[1], r)]) for r in range(_ROWS)]
        sums = {at: cgutils.alloca_once(builder, vector) for at in tile}  # LLVM makes registers of them
        for r, v in tile:
            builder.store(builder.load(address(6, constant(r), v), align=itemsize), sums[r, v])
        with cgutils.for_range(builder, array(2).nitems) as loop:
            offset = builder.load(builder.gep(array(2).data, [loop.index]))
            loaded = [builder.load(address(3, loop.index, v), align=itemsize) for v in range(_VECTORS)]
            for r in range(_ROWS):
                value = broadcast(builder.load(builder.gep(rows[r], [offset])))
                for v in range(_VECTORS):
                    # "contract": a fused multiply-add, where the processor has it.
                    product = builder.fmul(value, loaded[v], flags=("contract",))
                    total = builder.fadd(product, builder.load(sums[r, v]), flags=("contract",))
                    builder.store(total, sums[r, v])
        for r, v in tile:
            builder.store(builder.load(sums[r, v]), address(9, constant(r), v), align=itemsize)
        return context.get_dummy_value()

    return signature, codegen


class _Layout(NamedTuple):
    """How the input lies in the buffer of a task."""

    task_rows: int
    """Output rows of a task."""
    top: int
    """Rows of padding above."""
    stride: int
    """Input rows from an output row to the next."""
    height: int
    """Rows of the buffer."""
    width: int
    """Elements of a row of the buffer."""
    margin: int
    """Elements of padding on the left."""
    positions: np.ndarray
    """Elements from the first output position to each; filled up to _ROWS."""
    terms: np.ndarray
    """Elements from the first term of an output to each; filled up to a multiple of _ROWS."""


@functools.lru_cache(maxsize=256)
def _layout(g: Conv2dGeometry) -> _Layout:
    channels = g.in_channels
    tasks = -(-g.out_height // max(1, _POSITIONS // g.out_width))  # of an image
    task_rows = -(-g.out_height // tasks)
    reach = (g.out_width - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
    width = max(g.padding[2] + g.width, reach) * channels
    i, j = np.ogrid[:task_rows, : g.out_width]
    positions = (i * g.stride[0] * width + j * g.stride[1] * channels).reshape(-1)
    p, q, c = np.ogrid[: g.kernel[0], : g.kernel[1], :channels]
    terms = (p * g.dilation[0] * width + q * g.dilation[1] * channels + c).reshape(-1)
    return _Layout(
        task_rows=task_rows,
        top=g.padding[0],
        stride=g.stride[0],
        height=(task_rows - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1,
        width=width,
        margin=g.padding[2] * channels,
        positions=np.pad(positions, (0, max(0, _ROWS - len(positions)))),
        terms=np.pad(terms, (0, -len(terms) % _ROWS)),
    )


def _whole_blocks(matrix: np.ndarray) -> np.ndarray:
    """`matrix` with its rows filled up with zeros to a multiple of _BLOCK_BYTES, as a vector."""
    rows, columns = matrix.shape
    block = _BLOCK_BYTES // matrix.itemsize
    if columns % block == 0:
        return matrix.reshape(-1)
    padded = np.zeros((rows, -(-columns // block) * block), matrix.dtype)
    padded[:, :columns] = matrix
    return padded.reshape(-1)


@jit
def _copy_rows(x, n, first, layout, buffer):
    """The rows of the map x[n] from `first`, which may be negative, into `buffer`, whose margins are zero."""
    height, length = x.shape[1], x.shape[2]
    for k in range(layout.height):
        row, at = first + k, k * layout.width + layout.margin
        if 0 <= row < height:
            for e in range(length):
                buffer[at + e] = x[n, row, e]
        else:
            for e in range(length):
                buffer[at + e] = 0


@parallel_jit
def _convolution(x, weight, bias, layout, term_count, y):
    """y = convolution of x, (N, H, W * C_in), plus bias; weight and bias as vectors of whole blocks."""
    batch, out_height, out_width, out_channels = y.shape
    positions, terms = layout.positions, layout.terms[:term_count]
    flat_y, padded, block = y.reshape(-1), bias.size, _BLOCK_BYTES // y.itemsize
    tasks = (out_height + layout.task_rows - 1) // layout.task_rows
    for task in prange(batch * tasks):
        buffer = np.zeros(layout.height * layout.width, x.dtype)
        side = np.empty(_ROWS * padded, x.dtype)  # for what does not fit into y
        n, first = task // tasks, task % tasks * layout.task_rows
        _copy_rows(x, n, first * layout.stride - layout.top, layout, buffer)
        count = min(layout.task_rows, out_height - first) * out_width
        for start in range(0, count, _ROWS):
            m = max(0, min(start, count - _ROWS))  # the last ones overlap
            rows = positions[m], positions[m + 1], positions[m + 2], positions[m + 3]
            at = ((n * out_height + first) * out_width + m) * out_channels
            if padded == out_channels and count >= _ROWS:
                for o in range(0, padded, block):
                    _add_outer_products(
                        *(buffer, rows, terms), *(weight, o, padded), *(bias, o, 0), *(flat_y, at + o, padded)
                    )
            else:
                for o in range(0, padded, block):
                    _add_outer_products(*(buffer, rows, terms), *(weight, o, padded), *(bias, o, 0), *(side, o, padded))
                for r in range(min(_ROWS, count)):
                    for o in range(out_channels):
                        flat_y[at + r * out_channels + o] = side[r * padded + o]


@parallel_jit
def _partial_weight_gradients(x, dy, layout, partial):
    """partial[k]: the weight gradient, (terms, channels in whole blocks), of the k-th piece of the tasks; zero before.

    dy has whole blocks of channels.
    """
    batch, out_height, out_width, channels = dy.shape
    positions, terms = layout.positions, layout.terms
    flat_dy, flat_partial, block = dy.reshape(-1), partial.reshape(-1), _BLOCK_BYTES // dy.itemsize
    tasks = (out_height + layout.task_rows - 1) // layout.task_rows
    pieces = partial.shape[0]
    for piece in prange(pieces):
        buffer = np.zeros(layout.height * layout.width, x.dtype)
        for task in range(piece * batch * tasks // pieces, (piece + 1) * batch * tasks // pieces):
            n, first = task // tasks, task % tasks * layout.task_rows
            _copy_rows(x, n, first * layout.stride - layout.top, layout, buffer)
            count = min(layout.task_rows, out_height - first) * out_width
            for start in range(0, count, _CHUNK):
                here = positions[start : min(count, start + _CHUNK)]
                at = ((n * out_height + first) * out_width + start) * channels
                for o in range(0, channels, block):
                    for t in range(0, terms.size, _ROWS):
                        rows = terms[t], terms[t + 1], terms[t + 2], terms[t + 3]
                        total = flat_partial, (piece * terms.size + t) * channels + o, channels
                        _add_outer_products(*(buffer, rows, here), *(flat_dy, at + o, channels), *total, *total)


@parallel_jit
def _input_gradient(address, dy, weight, taps_y, taps_x, tile_rows, dx):
    """dx, a task for each image: products of tile_rows rows of dy, added up along the tables of the forward pass."""
    batch, out_height, out_width, out_channels = dy.shape
    kernel_h, kernel_w, channels, _ = weight.shape
    terms, size = kernel_h * kernel_w * channels, dy.itemsize
    for n in prange(batch):
        dx[n] = 0
        tile = np.empty((tile_rows * out_width, kernel_h, kernel_w, channels), dy.dtype)
        for first in range(0, out_height, tile_rows):
            rows = min(tile_rows, out_height - first)
            gemm(
                address,
                0,
                1,
                rows * out_width,
                terms,
                out_channels,
                dy.ctypes.data + (n * out_height + first) * out_width * out_channels * size,
                out_channels,
                weight.ctypes.data,
                out_channels,
                dy.dtype.type(0),
                tile.ctypes.data,
                terms,
            )
            for i in range(rows):
                for p in range(kernel_h):
                    row = taps_y[first + i, p]
                    if row < 0:
                        continue
                    for j in range(out_width):
                        for q in range(kernel_w):
                            column = taps_x[j, q]
                            if column >= 0:
                                for c in range(channels):
                                    dx[n, row, column, c] += tile[i * out_width + j, p, q, c]


def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, g: Conv2dGeometry, y: np.ndarray) -> None:
    """y = convolution of x plus bias, (C_out,) or empty."""
    weight = weight.reshape(-1, g.out_channels)
    bias = bias[None] if bias.size else np.zeros((1, g.out_channels), x.dtype)
    rows = x.reshape(g.batch, g.height, -1)
    _convolution(rows, _whole_blocks(weight), _whole_blocks(bias), _layout(g), len(weight), y)


def weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    """The gradient of the weights, in `dweight`."""
    layout = _layout(g)
    dy = _whole_blocks(dy.reshape(-1, g.out_channels)).reshape(*dy.shape[:3], -1)
    pieces = min(_PIECES, g.batch * -(-g.out_height // layout.task_rows))
    partial = np.zeros((pieces, len(layout.terms), dy.shape[3]), x.dtype)
    _partial_weight_gradients(x.reshape(g.batch, g.height, -1), dy, layout, partial)
    total = np.empty(partial.shape[1:], x.dtype)
    add_pieces(partial.reshape(pieces, -1), total.reshape(-1))
    terms = g.kernel[0] * g.kernel[1] * g.in_channels
    dweight[...] = total[:terms, : g.out_channels].reshape(dweight.shape)


def input_gradient(dy: np.ndarray, weight: np.ndarray, g: Conv2dGeometry, dx: np.ndarray) -> None:
    """The gradient of the input, in `dx`."""
    taps_y, taps_x = tap_tables(g)[0]
    tile_rows = max(1, _POSITIONS // g.out_width)
    _input_gradient(gemm_address(dy.dtype), dy, weight, taps_y, taps_x, tile_rows, dx)
