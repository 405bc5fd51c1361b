"""Sums of columns, and maxima and sums of rows, bit-identical for any number of threads (CPU)."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._columns import sum_columns
from gpunet.ops._numba import jit, prange
from gpunet.ops._simd import Code
from gpunet.recording import run

CHUNK_ROWS = 512
"""Rows per chunk. Chunks of float32 are summed in float32, and their partial sums in float64."""


@jit
def _sum_chunk(x, start, total):
    columns, rows, flat = x.shape[1], min(x.shape[0] - start, CHUNK_ROWS), x.reshape(-1)
    sum_columns(flat, start * columns, columns, rows, columns, total, 0)


@jit
def _partial_sums(x, partial):
    for chunk in prange(partial.shape[0]):
        _sum_chunk(x, chunk * CHUNK_ROWS, partial[chunk])


def column_sums(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Column sums of a C-contiguous (M, C) matrix, (C,) of the same dtype; in `out` if given."""
    total = np.empty(x.shape[1], x.dtype) if out is None else out
    if x.shape[0] <= CHUNK_ROWS:  # finished before a second thread would wake up
        _sum_chunk(x, 0, total)
    else:
        partial = np.empty((-(-x.shape[0] // CHUNK_ROWS), x.shape[1]), x.dtype)
        _partial_sums(x, partial)
        run(_add, partial, total)
    return total


def _add(partial: np.ndarray, total: np.ndarray) -> None:
    total[...] = partial.sum(0, dtype=np.float64)


def _reduction(name: str, lanes: int, wide: Any, combine: Any) -> Any:
    """An intrinsic ``name(x, start, count)`` that reduces `count` elements, a multiple of `lanes` and not 0, of `x`.

    Each lane takes every `lanes`-th element in order, then the lanes are combined in order, so that the bits of the
    result do not depend on the width of the vectors.
    """

    def reduce(typing_context: Any, x: Any, start: Any, count: Any) -> Any:
        result = wide or x.dtype
        signature = result(x, types.intp, types.intp)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, x.dtype)
            code.vector = ir.VectorType(context.get_data_type(x.dtype), lanes)
            target = ir.VectorType(context.get_data_type(result), lanes)
            data = code.array(0).data

            def load(at: Any) -> Any:
                value = code.load(data, at)
                return value if target == code.vector else builder.fpext(value, target)

            total = cgutils.alloca_once_value(builder, load(args[1]))
            steps = builder.sdiv(args[2], code.integer(lanes))
            with cgutils.for_range(builder, steps, start=code.integer(1)) as loop:
                at = builder.add(args[1], builder.mul(loop.index, code.integer(lanes)))
                builder.store(combine(builder, builder.load(total), load(at)), total)
            values = [builder.extract_element(builder.load(total), ir.IntType(32)(lane)) for lane in range(lanes)]
            found = values[0]
            for value in values[1:]:
                found = combine(builder, found, value)
            return found

        return signature, codegen

    reduce.__name__ = name
    return intrinsic(reduce)


def _greater(builder: Any, old: Any, new: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", new, old), new, old)


LANES = 16
"""Elements that :data:`vector_maximum` and :data:`vector_sum` take at a time."""
vector_maximum = _reduction("vector_maximum", LANES, None, _greater)
"""The maximum, NaN only if one is among the first LANES elements."""
vector_sum = _reduction("vector_sum", LANES, types.float64, lambda builder, old, new: builder.fadd(old, new))
"""The sum in float64."""
