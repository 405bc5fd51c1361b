"""The transforms of Winograd's convolution, as SIMD code; see :mod:`gpunet.ops._simd`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._simd import Code

Rows = Sequence[Sequence[float]]


def _combination(code: Code, row: Sequence[float], terms: Sequence[Any]) -> Any:
    """Emit the sum of row[k] * terms[k]. Factors of 0, 1 and -1 cost no multiplication."""
    builder, total = code.builder, None
    for factor, term in sorted(zip(row, terms, strict=True), key=lambda pair: abs(pair[0]) != 1):
        if factor == 0:
            continue
        if total is None:
            total = term if factor == 1 else builder.fmul(term, code.constant(factor))
        elif abs(factor) == 1:
            total = (builder.fadd if factor == 1 else builder.fsub)(total, term)
        else:
            total = code.multiply_add(term, code.constant(factor), total)
    return total


def _emit(code: Code, matrix: Rows, load: Any, store: Any) -> None:
    """Emit the transform, a column at a time, so that few values need a register at once."""
    inner, half = range(len(matrix[0])), []
    for j in inner:
        column = [load(i, j) for i in inner]
        half.append([_combination(code, row, column) for row in matrix])
    for i, j in itertools.product(range(len(matrix)), repeat=2):
        store(i, j, _combination(code, matrix[j], [column[i] for column in half]))


def _emit_clipped(code: Code, matrix: Rows, load: Any, store: Any, rows: Any, columns: Any) -> None:
    """Emit the transform and stores of its first `rows` and `columns`."""
    builder, values = code.builder, {}
    _emit(code, matrix, load, lambda i, j, value: values.update({(i, j): value}))
    inside = [[builder.icmp_signed("<", code.integer(k), end) for k in range(len(matrix))] for end in (rows, columns)]
    with builder.if_else(builder.and_(inside[0][-1], inside[1][-1]), likely=True) as (whole, part):
        with whole:
            for (i, j), value in values.items():
                store(i, j, value)
        with part:
            for (i, j), value in values.items():
                with builder.if_then(builder.and_(inside[0][i], inside[1][j])):
                    store(i, j, value)


def winograd_transform(matrix: Rows, *, clipped: bool = False) -> Any:
    """An intrinsic that computes ``Y = M X M^T`` in each channel for the (a, b) `matrix` M, which is compiled in.

    ``transform(x, x_start, x_row, x_column, y, y_start, y_row, y_column, y_step, steps, rows, columns)``

    Entry (i, j) of X is a vector of channels at ``x_start + i * x_row + j * x_column``, that of Y one at
    ``y_start + i * y_row + j * y_column``. There are `steps` vectors, one after the other in x, `y_step` apart in y.

    If `clipped`, only the first `rows` and `columns` of Y are stored; if not, these are ignored.
    """

    @intrinsic
    def transform(
        typing_context: Any,
        x: Any,
        x_start: Any,
        x_row: Any,
        x_column: Any,
        y: Any,
        y_start: Any,
        y_row: Any,
        y_column: Any,
        y_step: Any,
        steps: Any,
        rows: Any,
        columns: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(*(x, index, index, index), *(y, index, index, index, index), *(index, index, index))

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, x.dtype)

            def address(at: int, step: Any, i: int, j: int) -> tuple[Any, Any]:
                row, column = (builder.mul(args[at + k], code.integer(number)) for k, number in ((2, i), (3, j)))
                start = builder.gep(code.array(at).data, [builder.add(args[at + 1], step)])
                return builder.gep(start, [row]), column

            with cgutils.for_range(builder, args[9]) as loop:
                x_step = builder.mul(loop.index, code.integer(code.lanes))
                y_step = builder.mul(loop.index, args[8])

                def load(i: int, j: int) -> Any:
                    return code.load(*address(0, x_step, i, j))

                def store(i: int, j: int, value: Any) -> None:
                    code.store(value, *address(4, y_step, i, j))

                if clipped:
                    _emit_clipped(code, matrix, load, store, args[10], args[11])
                else:
                    _emit(code, matrix, load, store)
            return context.get_dummy_value()

        return signature, codegen

    return transform
