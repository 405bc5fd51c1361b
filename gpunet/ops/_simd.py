"""Vector code inside Numba kernels: what loops in Python cannot say, written as LLVM instructions.

Numba leaves vectors to LLVM's loop vectoriser, which never keeps a block of sums in registers over a loop. The two
intrinsics here do, on arrays of float32 or float64: :func:`add_outer_products`, the inner loop of every matrix product,
and those that :func:`two_sided_product` makes. All arrays that they take are flat and contiguous, all positions are
in elements, and nothing is checked.

A sum is added up in the order of its terms by fused multiply-adds, where the processor has them: its bits do not depend
on the width of the vectors.
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
VECTORS = 2
"""Vectors of a row of sums."""
BLOCK_BYTES = VECTORS * VECTOR_BYTES
"""A row of sums. Six such rows fill most of the 16 registers of AVX, and there are enough sums to hide the latency of
two units for multiply-adds."""


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
def add_outer_products(
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
    """result[r, :] = start[r, :] + sum over k of values[rows[r] + offsets[k]] * vectors[k, :].

    `rows` is a tuple of integers, `offsets` an array of them. Row r of `result` is the BLOCK_BYTES from the element
    result_first + r * result_step; those of `start` and `vectors` likewise.

    Source: Van Zee & van de Geijn, BLIS: A Framework for Rapidly Instantiating BLAS Functionality, ACM TOMS, 2015.
    """
    index, count = types.intp, rows.count
    signature = types.void(
        values,
        rows,
        offsets,
        *(vectors, index, index),
        *(start, index, index),
        *(result, index, index),
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args, values.dtype)
        tile = [(r, v) for r in range(count) for v in range(VECTORS)]

        def position(at: int, row: Any, v: int) -> Any:
            """Where vector v of a row of the matrix begins that the three arguments from `at` describe."""
            element = builder.add(args[at + 1], builder.mul(args[at + 2], row))
            return builder.add(element, code.integer(v * code.lanes))

        data = {at: code.array(at).data for at in (0, 2, 3, 6, 9)}
        bases = [builder.gep(data[0], [builder.extract_value(args[1], r)]) for r in range(count)]
        sums = {at: cgutils.alloca_once(builder, code.vector) for at in tile}  # LLVM makes registers of them
        for r, v in tile:
            builder.store(code.load(data[6], position(6, code.integer(r), v)), sums[r, v])
        with cgutils.for_range(builder, code.array(2).nitems) as loop:
            offset = code.element(data[2], loop.index)
            loaded = [code.load(data[3], position(3, loop.index, v)) for v in range(VECTORS)]
            for r in range(count):
                value = code.broadcast(code.element(bases[r], offset))
                for v in range(VECTORS):
                    builder.store(code.multiply_add(value, loaded[v], builder.load(sums[r, v])), sums[r, v])
        for r, v in tile:
            code.store(builder.load(sums[r, v]), data[9], position(9, code.integer(r), v))
        return context.get_dummy_value()

    return signature, codegen


def two_sided_product(matrix: Sequence[Sequence[float]]) -> Any:
    """An intrinsic ``product(source, at, places, target, to, target_places, length)`` that multiplies by constants.

    It computes ``Y = M X M^T`` for the (a, b) `matrix` M, once for each of `length` channels (a multiple of the
    elements of VECTOR_BYTES). Entry (i, j) of X is the channels of `source` from ``at + places[i * b + j]``, or zeros
    where that place is negative. Entry (i, j) of Y goes to `target` from ``to + target_places[i * a + j]``, or nowhere
    where that place is negative. Constants of 0, 1 and -1 cost no multiplication.
    """

    @intrinsic
    def product(
        typing_context: Any, source: Any, at: Any, places: Any, target: Any, to: Any, target_places: Any, length: Any
    ) -> Any:
        index = types.intp
        signature = types.void(source, index, places, target, index, target_places, index)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _Code(context, builder, signature, args, source.dtype)
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
                begin, end = builder.add(args[1], channel), builder.add(args[4], channel)
                x = []
                for k in range(inner * inner):
                    place = code.element(data[2], code.integer(k))
                    is_outside = builder.icmp_signed("<", place, code.integer(0))
                    somewhere = builder.select(is_outside, code.integer(0), place)
                    loaded = code.load(data[0], builder.add(begin, somewhere))
                    x.append(builder.select(is_outside, code.constant(0), loaded))
                rows = [[combination(row, x[j::inner]) for j in range(inner)] for row in matrix]
                for i, left in enumerate(rows):
                    for j, right in enumerate(matrix):
                        value = combination(right, left)
                        place = code.element(data[5], code.integer(i * outer + j))
                        is_inside = builder.icmp_signed(">=", place, code.integer(0))
                        with builder.if_then(is_inside, likely=True):
                            code.store(
                                value if value is not None else code.constant(0), data[3], builder.add(end, place)
                            )
            return context.get_dummy_value()

        return signature, codegen

    return product


@jit
def multiples(count: int, step: int) -> np.ndarray:
    """0, step, 2 step, ...: in a function of its own, where Numba does not make a parallel loop of it."""
    result = np.empty(count, np.intp)
    for k in range(count):
        result[k] = k * step
    return result


@jit
def scratch(count: int, like: np.ndarray) -> np.ndarray:
    """An array of `count` elements of the dtype of `like` that begins at a multiple of VECTOR_BYTES * VECTORS."""
    memory = np.empty(count + BLOCK_BYTES // like.itemsize, like.dtype)
    first = -memory.ctypes.data % BLOCK_BYTES // like.itemsize
    return memory[first : first + count]
