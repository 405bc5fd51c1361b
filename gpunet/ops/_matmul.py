"""Matrix products of whole arrays (CPU): small ones with sums in registers, large ones by BLAS.

BLAS copies both factors into an order of its own first. For a right factor that fits into the L2 cache that costs more
than it gains, and more still where the left factor has few rows.
"""

from __future__ import annotations

import numpy as np

from gpunet import aligned
from gpunet.ops._blas import gemm, gemm_address
from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops._simd import BLOCK_BYTES, add_outer_products, multiples

_TILE_ROWS = 6
"""Rows that a call of the micro-kernel takes."""
_CACHED_BYTES = 2**19
"""A right factor up to this size is read in place."""
_FEW_ROWS = 3
_PIECES, _PIECE_PRODUCTS = 8, 2**18
"""Pieces of a product with sums in registers, and multiply-adds of one at least: some microseconds, which is what it
takes to hand it to a thread that is still awake, as in a training step."""
_BLAS_PIECE_ROWS, _BLAS_PIECE_PRODUCTS = 64, 2**19
"""What a piece of a product by BLAS has at least: each copies the whole right factor."""


@jit
def _add_rows(a, b, c):
    """c = a @ b, adding up rows of b."""
    for i in range(a.shape[0]):
        c[i] = 0
        for k in range(a.shape[1]):
            factor = a[i, k]
            for j in range(b.shape[1]):
                c[i, j] += factor * b[k, j]


@jit
def _rectify(c):
    for i in range(c.size):
        c[i] = c.dtype.type(0) if c[i] <= c.dtype.type(0) else c[i]


@jit
def _register_rows(a, row_step, offsets, b, bias, block, relu, c, first, stop):
    """Rows first ... stop - 1 of the product plus bias; `a` and `b` are flat, `block` is the size of a row of sums."""
    rows, columns = c.shape
    flat = c.reshape(-1)
    for j in range(0, columns, block):
        for start in range(first, stop, _TILE_ROWS):
            i = min(start, rows - _TILE_ROWS)  # the last ones overlap
            at = i * row_step
            tile = (
                *(at, at + row_step, at + 2 * row_step),
                *(at + 3 * row_step, at + 4 * row_step, at + 5 * row_step),
            )
            to = i * columns + j
            add_outer_products(*(a, tile, offsets), *(b, j, columns), *(bias, j, 0), *(flat, to, columns))
    if relu:
        # Also the rows before the first that a last tile computed again: whoever wrote a sum rectifies it afterwards.
        _rectify(flat[min(first, rows - _TILE_ROWS) * columns : min(stop, rows) * columns])


@parallel_jit
def _register_pieces(a, row_step, offsets, b, bias, block, relu, c, pieces):
    tiles = (c.shape[0] + _TILE_ROWS - 1) // _TILE_ROWS
    for piece in prange(pieces):
        first, stop = piece * tiles // pieces * _TILE_ROWS, (piece + 1) * tiles // pieces * _TILE_ROWS
        _register_rows(a, row_step, offsets, b, bias, block, relu, c, first, stop)


@jit
def _blas_rows(address, a, trans_a, b, trans_b, c, start, stop):
    """Rows start ... stop - 1 of the product."""
    n = c.shape[1]
    k = a.shape[0] if trans_a else a.shape[1]
    itemsize = c.itemsize
    gemm(
        address,
        trans_a,
        trans_b,
        stop - start,
        n,
        k,
        a.ctypes.data + (start if trans_a else start * a.shape[1]) * itemsize,
        a.shape[1],
        b.ctypes.data,
        b.shape[1],
        c.dtype.type(0),
        c.ctypes.data + start * n * itemsize,
        n,
    )


@parallel_jit
def _blas_pieces(address, a, trans_a, b, trans_b, c, pieces):
    rows = c.shape[0]
    for piece in prange(pieces):
        start, stop = piece * rows // pieces, (piece + 1) * rows // pieces
        _blas_rows(address, a, trans_a, b, trans_b, c, start, stop)


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    bias: np.ndarray | None = None,
    relu: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """op(A) @ op(B) of two C-contiguous matrices of one dtype, plus `bias` in each row, in parallel over rows.

    With `relu` what is negative becomes 0.

    It is written to `out`, a C-contiguous matrix, if that is given.
    """
    rows, inner = (a.shape[1], a.shape[0]) if trans_a else a.shape
    if out is None:
        out = aligned.empty((rows, b.shape[0] if trans_b else b.shape[1]), a.dtype)
    if _in_registers(rows, b, trans_b):
        row_step, step = (1, rows) if trans_a else (inner, 1)
        start = np.zeros(out.shape[1], a.dtype) if bias is None else np.ascontiguousarray(bias)
        block = BLOCK_BYTES // a.itemsize
        operands = a.reshape(-1), row_step, multiples(inner, step), b.reshape(-1), start, block, relu, out
        pieces = min(_PIECES, out.size * inner // _PIECE_PRODUCTS)
        if pieces <= 1:
            _register_rows(*operands, 0, rows)
        else:
            _register_pieces(*operands, pieces)
        return out
    if not (out.size and inner):
        out[...] = 0
    elif rows <= _FEW_ROWS and not trans_a and not trans_b:
        _add_rows(a, b, out)
    else:
        by_blas = gemm_address(a.dtype), a, int(trans_a), b, int(trans_b), out
        pieces = min(-(-rows // _BLAS_PIECE_ROWS), out.size * inner // _BLAS_PIECE_PRODUCTS)
        if pieces <= 1:
            _blas_rows(*by_blas, 0, rows)
        else:
            _blas_pieces(*by_blas, pieces)
    if bias is not None:
        out += bias
    if relu:
        _rectify(out.reshape(-1))
    return out


def _in_registers(rows: int, b: np.ndarray, trans_b: bool) -> bool:
    return (
        not trans_b and rows >= _TILE_ROWS and b.nbytes <= _CACHED_BYTES and b.shape[1] * b.itemsize % BLOCK_BYTES == 0
    )
