"""The transforms of Winograd's convolution, as SIMD code; see :mod:`gpunet.ops._simd`.

A transform of a grid of numbers is a product with a matrix on either side, ``M X M^T``, and for points that are not a
grid one of all numbers together with another matrix, their `mix`. Each matrix is given as its factors, the first one of
which is applied first. They are compiled in: factors of 0, 1 and -1 cost no multiplication.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._simd import Code

Factors = Sequence[Sequence[Sequence[float]]]


def _combination(code: Code, row: Sequence[float], terms: Sequence[Any]) -> Any:
    """Emit the sum of row[k] * terms[k]."""
    builder, total = code.builder, None
    for factor, term in sorted(zip(row, terms, strict=True), key=lambda pair: (abs(pair[0]) != 1, pair[0] != 1)):
        if factor == 0:
            continue
        if total is None:
            total = term if factor == 1 else builder.fmul(term, code.constant(factor))
        elif abs(factor) == 1:
            total = (builder.fadd if factor == 1 else builder.fsub)(total, term)
        else:
            total = code.multiply_add(term, code.constant(factor), total)
    return total


def _product(code: Code, factors: Factors, values: Sequence[Any]) -> Sequence[Any]:
    """Emit the product of the matrices with a vector."""
    for matrix in factors:
        values = [_combination(code, row, values) for row in matrix]
    return values


def _transform(code: Code, factors: Factors, load: Any) -> list[Sequence[Any]]:
    """Emit ``M X M^T``, a column at a time, so that few values need a register at once; its rows."""
    size = len(factors[0][0])
    columns = [_product(code, factors, [load(i, j) for i in range(size)]) for j in range(size)]
    return [_product(code, factors, row) for row in zip(*columns, strict=True)]


def _address(code: Code, at: int, step: Any, *strides: tuple[int, int]) -> tuple[Any, Any]:
    """Data and position in the array that is argument `at`, `step` after the start that is the next argument.

    A stride is the number of an argument, and how often it is taken.
    """
    builder, data = code.builder, code.array(at).data
    start, *distances = (builder.mul(code.args[argument], code.integer(count)) for argument, count in strides)
    data = builder.gep(builder.gep(data, [builder.add(code.args[at + 1], step)]), [start])
    return data, functools.reduce(builder.add, distances, code.integer(0))


def to_points(factors: Factors, mix: Factors = ()) -> Any:
    """An intrinsic that transforms a grid to points.

    ``transform(x, x_start, x_row, x_column, y, y_start, y_point, y_step, steps)``

    Entry (i, j) of the grid is a vector of channels at ``x_start + i * x_row + j * x_column``, point k one at
    ``y_start + k * y_point``. There are `steps` vectors, one after the other in x, `y_step` apart in y.
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
        y_point: Any,
        y_step: Any,
        steps: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(x, index, index, index, y, index, index, index, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, x.dtype)
            with cgutils.for_range(builder, args[8]) as loop:
                x_step, y_step = builder.mul(loop.index, code.integer(code.lanes)), builder.mul(loop.index, args[7])
                rows = _transform(code, factors, lambda i, j: code.load(*_address(code, 0, x_step, (2, i), (3, j))))
                points = _product(code, mix, [value for row in rows for value in row])
                for k, value in enumerate(points):
                    code.store(value, *_address(code, 4, y_step, (6, k)))
            return context.get_dummy_value()

        return signature, codegen

    return transform


def from_points(factors: Factors, mix: Factors = (), *, clipped: bool = False) -> Any:
    """An intrinsic that transforms points to a grid.

    ``transform(x, x_start, x_point, y, y_start, y_row, y_column, steps, rows, columns)``

    Point k is a vector of channels at ``x_start + k * x_point``, entry (i, j) of the grid one at
    ``y_start + i * y_row + j * y_column``. There are `steps` vectors, one after the other in x and in y.

    If `clipped`, only the first `rows` and `columns` are stored; if not, these are ignored.
    """
    size = len(factors[0][0])
    count = len(mix[0][0]) if mix else size**2

    @intrinsic
    def transform(
        typing_context: Any,
        x: Any,
        x_start: Any,
        x_point: Any,
        y: Any,
        y_start: Any,
        y_row: Any,
        y_column: Any,
        steps: Any,
        rows: Any,
        columns: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(x, index, index, y, index, index, index, index, index, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, x.dtype)
            with cgutils.for_range(builder, args[7]) as loop:
                step = builder.mul(loop.index, code.integer(code.lanes))

                def load(k: int) -> Any:
                    return code.load(*_address(code, 0, step, (2, k)))

                def store(i: int, j: int) -> None:
                    code.store(found[i][j], *_address(code, 3, step, (5, i), (6, j)))

                if mix:
                    values = _product(code, mix, [load(k) for k in range(count)])
                    found = _transform(code, factors, lambda i, j: values[i * size + j])
                else:
                    found = _transform(code, factors, lambda i, j: load(i * size + j))
                if clipped:
                    _store_clipped(code, store, len(found), args[8], args[9])
                else:
                    for i, j in itertools.product(range(len(found)), repeat=2):
                        store(i, j)
            return context.get_dummy_value()

        return signature, codegen

    return transform


def _store_clipped(code: Code, store: Any, size: int, rows: Any, columns: Any) -> None:
    """Emit the stores of the first `rows` and `columns`."""
    builder, entries = code.builder, list(itertools.product(range(size), repeat=2))
    inside = [[builder.icmp_signed("<", code.integer(k), end) for k in range(size)] for end in (rows, columns)]
    with builder.if_else(builder.and_(inside[0][-1], inside[1][-1]), likely=True) as (whole, part):
        with whole:
            for i, j in entries:
                store(i, j)
        with part:
            for i, j in entries:
                with builder.if_then(builder.and_(inside[0][i], inside[1][j])):
                    store(i, j)
