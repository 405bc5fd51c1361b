# mypy: allow-untyped-calls, allow-untyped-decorators, allow-untyped-defs
# mypy: no-warn-unreachable, disable-error-code="call-arg"
# Numba kernels take no annotations: Numba infers the types.
"""Convolution with sums in registers over rows of the input in the L1 cache.

The rows of the input that some output rows of an image meet are copied into a small buffer with their padding. There
term t (a tap and an input channel) of output position m lies at ``positions[m] + terms[t]``. One micro-kernel adds up
outer products of such entries with contiguous vectors: over the terms with the weights for the output, over the
positions with dy for the gradient of the weights.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gpunet import aligned
from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops._simd import BLOCK_BYTES, add_outer_products
from gpunet.ops.conv2d._sums import add_pieces
from gpunet.ops.geometry import Conv2dGeometry

_POSITIONS = 256
"""Output positions of a task, about: what the micro-kernel reads again and again stays in the L1 cache."""
_CHUNK = 32
"""Positions that the weight gradient adds up at a time: as many as find room in the L1 cache at 512 bytes' distance."""
_PIECES, _PIECES_SIZE = 32, 2**22
"""Partial sums of the weight gradient: so many, but with no more elements in all unless they are four. They depend on
the shapes alone, so that results do not depend on the number of threads."""
_TASKS = 8
"""Tasks of a convolution, if it can be cut into as many."""
_POSITION_ROWS, _TERM_ROWS = 6, 4
"""Output positions, or terms, that a call of the micro-kernel takes."""


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
    """Elements from the first output position to each; filled up to _POSITION_ROWS."""
    terms: np.ndarray
    """Elements from the first term of an output to each; filled up to a multiple of _TERM_ROWS."""


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
        positions=np.pad(positions, (0, max(0, _POSITION_ROWS - len(positions)))),
        terms=np.pad(terms, (0, -len(terms) % _TERM_ROWS)),
    )


def _whole_blocks(matrix: np.ndarray) -> np.ndarray:
    """`matrix` with its rows filled up with zeros to a multiple of BLOCK_BYTES, as a vector."""
    rows, columns = matrix.shape
    block = BLOCK_BYTES // matrix.itemsize
    if columns % block == 0:
        return matrix.reshape(-1)
    padded = aligned.zeros((rows, -(-columns // block) * block), matrix.dtype)
    padded[:, :columns] = matrix
    return padded.reshape(-1)


@jit
def _zeros(size, like):
    """In a function of its own, where Numba does not make a parallel loop of it."""
    return np.zeros(size, like.dtype)


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
def _convolution(x, weight, bias, layout, term_count, cuts, y):
    """y = convolution of x, (N, H, W * C_in), plus bias; weight and bias as vectors of whole blocks.

    The output channels of some output rows are `cuts` tasks.
    """
    batch, out_height, out_width, out_channels = y.shape
    positions, terms = layout.positions, layout.terms[:term_count]
    flat_y, padded, block = y.reshape(-1), bias.size, BLOCK_BYTES // y.itemsize
    parts, blocks = (out_height + layout.task_rows - 1) // layout.task_rows, padded // block
    for task in prange(batch * parts * cuts):
        buffer = _zeros(layout.height * layout.width, x)
        side = np.empty(_POSITION_ROWS * block, x.dtype)  # for what does not fit into y
        part, cut = task // cuts, task % cuts
        n, first = part // parts, part % parts * layout.task_rows
        _copy_rows(x, n, first * layout.stride - layout.top, layout, buffer)
        count = min(layout.task_rows, out_height - first) * out_width
        for o in range(cut * blocks // cuts * block, (cut + 1) * blocks // cuts * block, block):
            for start in range(0, count, _POSITION_ROWS):
                m = max(0, min(start, count - _POSITION_ROWS))  # the last ones overlap
                rows = (
                    *(positions[m], positions[m + 1], positions[m + 2]),
                    *(positions[m + 3], positions[m + 4], positions[m + 5]),
                )
                at = ((n * out_height + first) * out_width + m) * out_channels + o
                if o + block <= out_channels and count >= _POSITION_ROWS:
                    add_outer_products(
                        *(buffer, rows, terms), *(weight, o, padded), *(bias, o, 0), *(flat_y, at, out_channels)
                    )
                else:
                    add_outer_products(*(buffer, rows, terms), *(weight, o, padded), *(bias, o, 0), *(side, 0, block))
                    for r in range(min(_POSITION_ROWS, count)):
                        for c in range(min(block, out_channels - o)):
                            flat_y[at + r * out_channels + c] = side[r * block + c]


@parallel_jit
def _partial_weight_gradients(x, dy, layout, partial):
    """partial[k]: the weight gradient, (terms, channels in whole blocks), of the k-th piece of the tasks; zero before.

    dy has whole blocks of channels.
    """
    batch, out_height, out_width, channels = dy.shape
    positions, terms = layout.positions, layout.terms
    flat_dy, flat_partial, block = dy.reshape(-1), partial.reshape(-1), BLOCK_BYTES // dy.itemsize
    tasks = (out_height + layout.task_rows - 1) // layout.task_rows
    pieces = partial.shape[0]
    for piece in prange(pieces):
        buffer = _zeros(layout.height * layout.width, x)
        for task in range(piece * batch * tasks // pieces, (piece + 1) * batch * tasks // pieces):
            n, first = task // tasks, task % tasks * layout.task_rows
            _copy_rows(x, n, first * layout.stride - layout.top, layout, buffer)
            count = min(layout.task_rows, out_height - first) * out_width
            for start in range(0, count, _CHUNK):
                here = positions[start : min(count, start + _CHUNK)]
                at = ((n * out_height + first) * out_width + start) * channels
                for o in range(0, channels, block):
                    for t in range(0, terms.size, _TERM_ROWS):
                        rows = terms[t], terms[t + 1], terms[t + 2], terms[t + 3]
                        total = flat_partial, (piece * terms.size + t) * channels + o, channels
                        add_outer_products(*(buffer, rows, here), *(flat_dy, at + o, channels), *total, *total)


def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, g: Conv2dGeometry, y: np.ndarray) -> None:
    """y = convolution of x plus bias, (C_out,) or empty."""
    weight = weight.reshape(-1, g.out_channels)
    bias = bias[None] if bias.size else np.zeros((1, g.out_channels), x.dtype)
    rows, layout = x.reshape(g.batch, g.height, -1), _layout(g)
    parts = g.batch * -(-g.out_height // layout.task_rows)
    blocks = -(-g.out_channels * x.itemsize // BLOCK_BYTES)
    cuts = max(1, min(blocks, _TASKS // parts))
    _convolution(rows, _whole_blocks(weight), _whole_blocks(bias), layout, len(weight), cuts, y)


def weight_gradient(x: np.ndarray, dy: np.ndarray, g: Conv2dGeometry, dweight: np.ndarray) -> None:
    """The gradient of the weights, in `dweight`."""
    layout = _layout(g)
    dy = _whole_blocks(dy.reshape(-1, g.out_channels)).reshape(*dy.shape[:3], -1)
    fitting = max(4, min(_PIECES, _PIECES_SIZE // (len(layout.terms) * dy.shape[3])))
    pieces = min(fitting, g.batch * -(-g.out_height // layout.task_rows))
    partial = aligned.zeros((pieces, len(layout.terms), dy.shape[3]), x.dtype)
    _partial_weight_gradients(x.reshape(g.batch, g.height, -1), dy, layout, partial)
    total = aligned.empty(partial.shape[1:], x.dtype)
    add_pieces(partial.reshape(pieces, -1), total.reshape(-1))
    terms = g.kernel[0] * g.kernel[1] * g.in_channels
    dweight[...] = total[:terms, : g.out_channels].reshape(dweight.shape)
