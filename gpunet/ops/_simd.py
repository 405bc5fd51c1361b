"""SIMD code for Numba kernels, written as LLVM instructions because loops in Python cannot express it.

Numba leaves vectorisation to LLVM, which never keeps a tile of accumulators in registers across a loop. The intrinsics
here do, for float32 and float64: :func:`gemm_micro_kernel`, the inner loop of every matrix product that is not BLAS's,
and the transforms that :func:`winograd_transform` makes. All arrays they take are flat and contiguous, all starts,
strides and offsets count elements, and nothing is checked.

A sum accumulates its terms in order, with fused multiply-adds where the processor has them: its bits do not depend on
the width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

from gpunet.ops._numba import jit


def _vector_bytes() -> int:
    """The widest vectors of the processor that Numba compiles for, which ``NUMBA_CPU_FEATURES`` may narrow."""
    given: str | None = vars(config)["CPU_FEATURES"]
    if given is None and vars(config)["CPU_NAME"] is None:
        names = {name for name, present in binding.get_host_cpu_features().items() if present}
    else:
        names = {name[1:] for name in (given or "").split(",") if name.startswith("+")}
    return 64 if "avx512f" in names else 32 if "avx" in names else 16


VECTOR_BYTES = _vector_bytes()
PANEL_VECTORS = 2
"""Vectors in a row of the register tile."""
PANEL_BYTES = PANEL_VECTORS * VECTOR_BYTES
"""A row of the register tile, and so the width of a panel of the right-hand matrix. Six such rows fill most of the 16
registers of AVX, and are enough accumulators to hide the latency of two fused multiply-add units."""


class _Code:
    """Short names for the instructions of one intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, dtype: Any) -> None:
        self.context, self.builder, self.signature, self.args = context, builder, signature, args
        self.itemsize = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(context.get_data_type(dtype), self.lanes)

    def array(self, at: int) -> Any:
        return self.context.make_array(self.signature.args[at])(self.context, self.builder, self.args[at])

    def integer(self, value: int) -> Any:
        return ir.Constant(self.context.get_value_type(types.intp), value)

    def element(self, data: Any, at: Any) -> Any:
        return self.builder.load(self.builder.gep(data, [at]))

    def load(self, data: Any, at: Any) -> Any:
        """The vector that begins at element `at`."""
        pointer = self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())
        return self.builder.load(pointer, align=self.itemsize)

    def store(self, value: Any, data: Any, at: Any) -> None:
        pointer = self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())
        self.builder.store(value, pointer, align=self.itemsize)

    def broadcast(self, value: Any) -> Any:
        undefined, integer = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)
        lane = self.builder.insert_element(undefined, value, ir.Constant(integer, 0))
        return self.builder.shuffle_vector(
            lane, undefined, ir.Constant(ir.VectorType(integer, self.lanes), [0] * self.lanes)
        )

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.lanes)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, fused where the processor can ("contract")."""
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))


@intrinsic
def gemm_micro_kernel(
    typing_context: Any,
    a: Any,
    a_rows: Any,
    a_offsets: Any,
    b: Any,
    b_start: Any,
    b_stride: Any,
    c: Any,
    c_start: Any,
    c_stride: Any,
    d: Any,
    d_start: Any,
    d_stride: Any,
) -> Any:
    """D = A B + C for one register tile: d[r, :] = c[r, :] + sum over k of a[a_rows[r] + a_offsets[k]] * b[k, :].

    `a_rows` is a tuple of integers, one for each row of the tile, and `a_offsets` an array of them. Row r of D is the
    PANEL_BYTES from element d_start + r * d_stride of `d`; the rows of B and C likewise. C and D may be the same.

    Source: Van Zee & van de Geijn, BLIS: A Framework for Rapidly Instantiating BLAS Functionality, ACM TOMS, 2015.
    """
    index, count = types.intp, a_rows.count
    signature = types.void(
        *(a, a_rows, a_offsets),
        *(b, index, index),
        *(c, index, index),
        *(d, index, index),
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, a.dtype)
        tile = [(r, v) for r in range(count) for v in range(PANEL_VECTORS)]

        def position(at: int, row: Any, v: int) -> Any:
            """The first element of vector v in a row of the matrix given by the three arguments from `at` on."""
            element = builder.add(args[at + 1], builder.mul(args[at + 2], row))
            return builder.add(element, code.integer(v * code.lanes))

        data = {at: code.array(at).data for at in (0, 2, 3, 6, 9)}
        bases = [builder.gep(data[0], [builder.extract_value(args[1], r)]) for r in range(count)]
        sums = {at: cgutils.alloca_once(builder, code.vector) for at in tile}  # LLVM puts them in registers
        for r, v in tile:
            builder.store(code.load(data[6], position(6, code.integer(r), v)), sums[r, v])
        with cgutils.for_range(builder, code.array(2).nitems) as loop:
            offset = code.element(data[2], loop.index)
            loaded = [code.load(data[3], position(3, loop.index, v)) for v in range(PANEL_VECTORS)]
            for r in range(count):
                value = code.broadcast(code.element(bases[r], offset))
                for v in range(PANEL_VECTORS):
                    builder.store(code.multiply_add(value, loaded[v], builder.load(sums[r, v])), sums[r, v])
        for r, v in tile:
            code.store(builder.load(sums[r, v]), data[9], position(9, code.integer(r), v))
        return context.get_dummy_value()

    return signature, codegen


def winograd_transform(matrix: Sequence[Sequence[float]]) -> Any:
    """An intrinsic ``transform(x, x_start, x_offsets, y, y_start, y_offsets, channels)``, with `matrix` compiled in.

    It computes ``Y = M X M^T`` for the (a, b) `matrix` M, once for each of the `channels` (a multiple of the lanes of
    a vector). Entry (i, j) of X is the channels of `x` from ``x_start + x_offsets[i * b + j]`` on, or zeros where that
    offset is negative. Entry (i, j) of Y is stored in `y` from ``y_start + y_offsets[i * a + j]`` on, or not at all
    where that offset is negative. Constants of 0, 1 and -1 cost no multiplication.
    """

    @intrinsic
    def transform(
        typing_context: Any, x: Any, x_start: Any, x_offsets: Any, y: Any, y_start: Any, y_offsets: Any, channels: Any
    ) -> Any:
        index = types.intp
        signature = types.void(x, index, x_offsets, y, index, y_offsets, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _Code(context, builder, signature, args, x.dtype)
            outer, inner = len(matrix), len(matrix[0])
            data = {k: code.array(k).data for k in (0, 2, 3, 5)}
            steps = builder.sdiv(args[6], code.integer(code.lanes))

            def combination(row: Sequence[float], terms: list[Any]) -> Any:
                """The sum of row[k] * terms[k], without the terms that are None (zero)."""
                total = None
                for factor, term in sorted(zip(row, terms, strict=True), key=lambda pair: abs(pair[0]) != 1):
                    if factor == 0 or term is None:
                        continue
                    if total is None:
                        total = term if factor == 1 else builder.fmul(term, code.constant(factor))
                    elif abs(factor) == 1:
                        total = (builder.fadd if factor == 1 else builder.fsub)(total, term)
                    else:
                        total = code.multiply_add(term, code.constant(factor), total)
                return total

            with cgutils.for_range(builder, steps) as loop:
                channel = builder.mul(loop.index, code.integer(code.lanes))
                x_begin, y_begin = builder.add(args[1], channel), builder.add(args[4], channel)
                entries = []
                for k in range(inner * inner):
                    offset = code.element(data[2], code.integer(k))
                    is_outside = builder.icmp_signed("<", offset, code.integer(0))
                    readable = builder.select(is_outside, code.integer(0), offset)
                    loaded = code.load(data[0], builder.add(x_begin, readable))
                    entries.append(builder.select(is_outside, code.constant(0), loaded))
                rows = [[combination(row, entries[j::inner]) for j in range(inner)] for row in matrix]
                for i, left in enumerate(rows):
                    for j, right in enumerate(matrix):
                        value = combination(right, left)
                        offset = code.element(data[5], code.integer(i * outer + j))
                        is_inside = builder.icmp_signed(">=", offset, code.integer(0))
                        with builder.if_then(is_inside, likely=True):
                            code.store(
                                value if value is not None else code.constant(0), data[3], builder.add(y_begin, offset)
                            )
            return context.get_dummy_value()

        return signature, codegen

    return transform


@jit
def multiples(count: int, step: int) -> np.ndarray:
    """0, step, 2 step, ...: a function of its own, so that Numba does not turn it into a parallel loop."""
    result = np.empty(count, np.intp)
    for k in range(count):
        result[k] = k * step
    return result


@jit
def scratch(count: int, like: np.ndarray) -> np.ndarray:
    """An array of `count` elements of the dtype of `like` aligned to PANEL_BYTES."""
    memory = np.empty(count + PANEL_BYTES // like.itemsize, like.dtype)
    first = -memory.ctypes.data % PANEL_BYTES // like.itemsize
    return memory[first : first + count]
