"""SIMD code that packs matrices for products, and unpacks results of few columns; see :mod:`gpunet.ops._simd`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._numba import jit
from gpunet.ops._simd import VECTOR_BYTES, Code


def copy_rows(elements: int = 0, *, vectors: int = 0, whole: bool = True, fill: bool = True) -> Any:
    """An intrinsic that copies the first `elements`, or `vectors`, of some rows.

    ``copy(x, x_start, x_row, y, y_start, y_row, rows, columns)``

    Row r is at ``x_start + r * x_row`` in `x` and at ``y_start + r * y_row`` in `y`. Unless rows are `whole`, the first
    `columns` of them are copied and, to `fill` up the row, followed by zeros.
    """

    @intrinsic
    def copy(
        typing_context: Any, x: Any, x_start: Any, x_row: Any, y: Any, y_start: Any, y_row: Any, rows: Any, columns: Any
    ) -> Any:
        index = types.intp
        signature = types.void(x, index, index, y, index, index, index, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, x.dtype)
            code.vector = ir.VectorType(context.get_data_type(x.dtype), elements or vectors * code.lanes)
            source, target = code.array(0).data, code.array(3).data
            mask = None if whole else code.first(args[7])
            with cgutils.for_range(builder, args[6]) as loop:
                at, to = (builder.add(args[k], builder.mul(args[k + 1], loop.index)) for k in (1, 4))
                loaded = code.load(source, at) if mask is None else code.load_masked(source, at, mask)
                if mask is None or fill:
                    code.store(loaded, target, to)
                else:
                    code.store_masked(loaded, target, to, mask)
            return context.get_dummy_value()

        return signature, codegen

    return copy


def _transpose(*, whole: bool) -> Any:
    """An intrinsic that transposes a matrix of a vector each way or, unless it is `whole`, of up to one.

    ``transpose(x, x_start, x_row, y, y_start, y_row, rows, columns)``: ``y[y_start + j * y_row + i]`` becomes
    ``x[x_start + i * x_row + j]``. Blocks of 1, 2, 4, ... lanes are exchanged between pairs of rows, all in registers.
    """

    @intrinsic
    def transpose(
        typing_context: Any, x: Any, x_start: Any, x_row: Any, y: Any, y_start: Any, y_row: Any, rows: Any, columns: Any
    ) -> Any:
        index = types.intp
        signature = types.void(x, index, index, y, index, index, index, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, x.dtype)
            source, target, lanes = code.array(0).data, code.array(3).data, code.lanes
            width, height = code.first(args[7]), code.first(args[6])

            def place(at: int, row: int) -> Any:
                return builder.add(args[at], builder.mul(args[at + 1], code.integer(row)))

            def shuffled(first: Any, second: Any, lanes_of: Sequence[int]) -> Any:
                order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(lanes_of))
                return builder.shuffle_vector(first, second, order)

            def mask(row: int, count: Any, there: Any) -> Any:
                is_row = builder.icmp_signed("<", code.integer(row), count)
                return builder.select(is_row, there, ir.Constant(there.type, [0] * lanes))

            if whole:
                lines = [code.load(source, place(1, r)) for r in range(lanes)]
            else:
                lines = [code.load_masked(source, place(1, r), mask(r, args[6], width)) for r in range(lanes)]
            block = lanes // 2
            while block:
                for r in range(lanes):
                    if r & block == 0:
                        upper, lower = lines[r], lines[r + block]
                        left = [k if k & block == 0 else lanes + k - block for k in range(lanes)]
                        right = [k + block if k & block == 0 else lanes + k for k in range(lanes)]
                        lines[r], lines[r + block] = shuffled(upper, lower, left), shuffled(upper, lower, right)
                block //= 2
            for r in range(lanes):
                if whole:
                    code.store(lines[r], target, place(4, r))
                else:
                    code.store_masked(lines[r], target, place(4, r), mask(r, args[7], height))
            return context.get_dummy_value()

        return signature, codegen

    return transpose


_transpose_square, _transpose_part = _transpose(whole=True), _transpose(whole=False)


@jit
def transpose_matrix(x, x_start, x_row, y, y_start, y_row, rows, columns):
    """``y[y_start + j * y_row + i] = x[x_start + i * x_row + j]`` for i up to `rows` and j up to `columns`."""
    lanes = VECTOR_BYTES // x.itemsize
    for i in range(0, rows, lanes):
        for j in range(0, columns, lanes):
            source, target = x_start + i * x_row + j, y_start + j * y_row + i
            if i + lanes <= rows and j + lanes <= columns:
                _transpose_square(x, source, x_row, y, target, y_row, lanes, lanes)
            else:
                _transpose_part(x, source, x_row, y, target, y_row, min(lanes, rows - i), min(lanes, columns - j))


@intrinsic
def copy_elements(typing_context: Any, x: Any, x_start: Any, y: Any, y_start: Any, count: Any) -> Any:
    """Copy `count` elements of `x` to `y`. A loop may check each index for its sign, and then is not vectorised."""
    index = types.intp
    signature = types.void(x, index, y, index, index)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = Code(context, builder, signature, args, x.dtype)
        source, target = (builder.gep(code.array(at).data, [args[at + 1]]) for at in (0, 2))
        cgutils.raw_memcpy(builder, target, source, args[4], code.integer(code.itemsize))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def clear_elements(typing_context: Any, y: Any, y_start: Any, count: Any) -> Any:
    """Set `count` elements of `y` to zero."""
    index = types.intp
    signature = types.void(y, index, index)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = Code(context, builder, signature, args, y.dtype)
        target = builder.gep(code.array(0).data, [args[1]])
        cgutils.memset(builder, target, builder.mul(args[2], code.integer(code.itemsize)), 0)
        return context.get_dummy_value()

    return signature, codegen
