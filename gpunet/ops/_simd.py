"""SIMD code for Numba kernels, emitted as LLVM IR because Python loops cannot express it.

Numba leaves vectorisation to LLVM, which does not keep a tile of accumulators in registers across a loop. These
intrinsics do, for float32 and float64; :func:`micro_kernel` and :func:`gemm_tile` are the inner loops of every matrix
product outside BLAS. All their arrays are flat and contiguous; starts, strides and offsets are in elements; nothing is
checked.

Sums accumulate their terms in order, with fused multiply-adds if the processor has them, so that their bits do not
depend on the vector width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from gpunet.ops._numba import jit


def _vector_bytes() -> int:
    """The vector width of the CPU that Numba compiles for, which ``NUMBA_CPU_FEATURES`` may restrict."""
    given: str | None = vars(config)["CPU_FEATURES"]
    if given is None:
        given = get_host_cpu_features() if vars(config)["CPU_NAME"] is None else ""
    names = {name[1:] for name in given.split(",") if name.startswith("+")}
    return 64 if "avx512f" in names else 32 if "avx" in names else 16


VECTOR_BYTES = _vector_bytes()
MANY_REGISTERS = VECTOR_BYTES == 64
"""AVX-512 has 32 vector registers, AVX 16."""
PANEL_VECTORS = 2
"""Vectors per row of the register tile."""
PANEL_BYTES = PANEL_VECTORS * VECTOR_BYTES
"""Size of a row of the register tile, and so of a panel row of the right-hand matrix. Six such rows fill most of AVX's
16 registers, and are enough accumulators to hide the latency of two FMA units."""


class Code:
    """Shorthand for emitting the instructions of an intrinsic."""

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
        """The vector that starts at element `at`."""
        pointer = self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())
        return self.builder.load(pointer, align=self.itemsize)

    def store(self, value: Any, data: Any, at: Any) -> None:
        pointer = self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())
        self.builder.store(value, pointer, align=self.itemsize)

    def first(self, count: Any) -> Any:
        """The mask of the first `count` lanes of a vector."""
        integer, lanes = ir.IntType(32), self.vector.count
        numbers = ir.VectorType(integer, lanes)
        limit = self.builder.insert_element(
            ir.Constant(numbers, ir.Undefined), self.builder.trunc(count, integer), integer(0)
        )
        limits = self.builder.shuffle_vector(limit, limit, ir.Constant(numbers, [0] * lanes))
        return self.builder.icmp_signed("<", ir.Constant(numbers, list(range(lanes))), limits)

    def load_masked(self, data: Any, at: Any, mask: Any) -> Any:
        """As :meth:`load`, with zeros in the lanes that are not in `mask`, which are not read."""
        pointer = self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())
        arguments = pointer, ir.IntType(32)(self.itemsize), mask, ir.Constant(self.vector, None)
        return self._masked("load", self.vector, *arguments)

    def store_masked(self, value: Any, data: Any, at: Any, mask: Any) -> None:
        """As :meth:`store`, only the lanes in `mask`."""
        pointer = self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())
        self._masked("store", ir.VoidType(), value, pointer, ir.IntType(32)(self.itemsize), mask)

    def _masked(self, what: str, result: Any, *arguments: Any) -> Any:
        name = f"llvm.masked.{what}.v{self.vector.count}f{8 * self.itemsize}.p0"
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, name), arguments)

    def broadcast(self, value: Any) -> Any:
        undefined, integer = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)
        lane = self.builder.insert_element(undefined, value, ir.Constant(integer, 0))
        return self.builder.shuffle_vector(
            lane, undefined, ir.Constant(ir.VectorType(integer, self.lanes), [0] * self.lanes)
        )

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.lanes)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, fused if the CPU supports it ("contract")."""
        product = self.builder.fmul(a, b, flags=("contract",))
        return self.builder.fadd(product, c, flags=("contract",))


def _accumulate(code: Code, shape: Any, count: Any, elements: Any, b: Any, c: Any, d: Any, low: Any) -> None:
    """Emit D = max(A B + C, low) for one register tile.

    shape: rows, and vectors per row.
    count: the number of terms.
    elements: a function from the number of a term to its address in each row of A.
    b: data, the position of the first row and the distance between rows; c, d: data and the positions of the rows.
    low: a vector, or None for no bound. A NaN passes.
    """
    builder, (height, vectors) = code.builder, shape
    tile = [(r, v) for r in range(height) for v in range(vectors)]

    def vector(row: Any, v: int) -> Any:
        return builder.add(row, code.integer(v * code.lanes))

    sums = {at: cgutils.alloca_once(builder, code.vector) for at in tile}  # LLVM promotes them to registers
    for r, v in tile:
        builder.store(code.load(c[0], vector(c[1][r], v)), sums[r, v])
    with cgutils.for_range(builder, count) as loop:
        row = builder.add(b[1], builder.mul(b[2], loop.index))
        loaded = [code.load(b[0], vector(row, v)) for v in range(vectors)]
        for r, address in enumerate(elements(loop.index)):
            value = code.broadcast(builder.load(address))
            for v in range(vectors):
                builder.store(code.multiply_add(value, loaded[v], builder.load(sums[r, v])), sums[r, v])
    for r, v in reversed(tile):
        value = builder.load(sums[r, v])
        if low is not None:
            value = builder.select(builder.fcmp_ordered("<=", value, low), low, value)
        code.store(value, d[0], vector(d[1][r], v))


def micro_kernel(vectors: int, height: int = 0, *, vectors_apart: bool = False) -> Any:
    """An intrinsic that computes D = A B + C for one register tile with `vectors` vectors per row.

    ``kernel(a, a_rows, a_offsets, b, b_start, b_stride, c, c_start, c_stride, d, d_start, d_stride)``:
    d[r, :] = c[r, :] + sum over k of a[a_rows[r] + a_offsets[k]] * b[k, :].

    `a_rows` is a tuple of integers, one per row of the tile, and `a_offsets` an integer array. Row r of D starts at
    element d_start + r * d_stride of `d`; likewise the rows of B and C. C and D may alias.

    If the `height` of the tile is given, `a_rows` is where its first row starts; the others follow one element apart,
    or one vector. Then they take one register together, and the tile may be as high as there are vector registers.

    Source: Van Zee & van de Geijn, BLIS: A Framework for Rapidly Instantiating BLAS Functionality, ACM TOMS, 2015.
    """

    @intrinsic
    def kernel(
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
        index, count = types.intp, height or a_rows.count
        signature = types.void(
            *(a, a_rows, a_offsets),
            *(b, index, index),
            *(c, index, index),
            *(d, index, index),
        )

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, a.dtype)

            def positions(start: Any, stride: Any) -> list[Any]:
                return [builder.add(start, builder.mul(stride, code.integer(r))) for r in range(count)]

            data = {at: code.array(at).data for at in (0, 2, 3, 6, 9)}
            step = code.lanes if vectors_apart else 1

            def elements(k: Any) -> list[Any]:
                offset = code.element(data[2], k)
                if not height:
                    return [builder.gep(base, [offset]) for base in bases]
                first = builder.gep(data[0], [builder.add(args[1], offset)])
                return [builder.gep(first, [code.integer(r * step)]) for r in range(height)]

            bases = [] if height else [builder.gep(data[0], [builder.extract_value(args[1], r)]) for r in range(count)]
            b, c = (data[3], args[4], args[5]), (data[6], positions(args[7], args[8]))
            d = data[9], positions(args[10], args[11])
            _accumulate(code, (count, vectors), code.array(2).nitems, elements, b, c, d, None)
            return context.get_dummy_value()

        return signature, codegen

    return kernel


gemm_micro_kernel = micro_kernel(PANEL_VECTORS)
"""For rows of PANEL_BYTES."""
narrow_micro_kernel = micro_kernel(1)
"""For rows of VECTOR_BYTES: with more of them, for as many accumulators."""


@intrinsic
def positions_of_rows(typing_context: Any, base: Any, offsets: Any, start: Any, rows: Any) -> Any:
    """``base + offsets[start + r]`` for each number r of a row, as a tuple; the entries of `rows` only count them."""
    signature = types.UniTuple(types.intp, rows.count)(types.intp, offsets, types.intp, rows)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[1])(context, builder, args[1]).data
        found = []
        for r in range(rows.count):
            at = builder.add(args[2], ir.Constant(args[2].type, r))
            found.append(builder.add(args[0], builder.load(builder.gep(data, [at]))))
        return context.make_tuple(builder, signature.return_type, found)

    return signature, codegen


def gemm_tile(height: int, vectors: int, packed: bool) -> Any:
    """An intrinsic that computes D = max(A B + C, low) for a register tile of `height` rows of `vectors` vectors.

    ``tile(rows, terms, a, a_start, a_step, b, b_start, b_row, c, c_start, c_row, d, d_start, d_row, low)``

    Row r of B, C or D is at ``start + r * row``. Term k of row r of A is at ``a_start + k * a_step + r`` if it is
    `packed`, else at ``a_start + r * a_step + k``. If the tile has fewer `rows` than `height`, something is computed in
    place of the others (packed, of whatever is there), and then overwritten by the last one. C and D may alias: all of
    C is read first. `low` is a number of the matrices' type; NaN passes.
    """

    @intrinsic
    def tile(
        typing_context: Any,
        rows: Any,
        terms: Any,
        a: Any,
        a_start: Any,
        a_step: Any,
        b: Any,
        b_start: Any,
        b_row: Any,
        c: Any,
        c_start: Any,
        c_row: Any,
        d: Any,
        d_start: Any,
        d_row: Any,
        low: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(
            *(index, index, a, index, index),
            *(b, index, index, c, index, index, d, index, index, a.dtype),
        )

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, a.dtype)
            last = builder.sub(args[0], code.integer(1))
            plain = [code.integer(r) for r in range(height)]
            clipped = [builder.select(builder.icmp_signed("<", here, last), here, last) for here in plain]

            def positions(at: int) -> list[Any]:
                return [builder.add(args[at], builder.mul(args[at + 1], number)) for number in clipped]

            left, right, start, result = (code.array(at).data for at in (2, 5, 8, 11))
            bases = [] if packed else [builder.gep(left, [position]) for position in positions(3)]

            def elements(k: Any) -> list[Any]:
                if not packed:
                    return [builder.gep(base, [k]) for base in bases]
                first = builder.gep(left, [builder.add(args[3], builder.mul(args[4], k))])
                return [builder.gep(first, [number]) for number in plain]

            b, c, d = (right, args[6], args[7]), (start, positions(9)), (result, positions(12))
            _accumulate(code, (height, vectors), args[1], elements, b, c, d, code.broadcast(args[14]))
            return context.get_dummy_value()

        return signature, codegen

    return tile


@intrinsic
def scale_and_pool(
    typing_context: Any,
    x: Any,
    x_start: Any,
    right: Any,
    below: Any,
    scales: Any,
    scale: Any,
    offset: Any,
    low: Any,
    y: Any,
    y_start: Any,
) -> Any:
    """The maximum of ``x * scale + offset`` over a window of four, and of `low`, for PANEL_BYTES of channels.

    The window's elements are at ``x_start``, plus `right`, plus `below`, plus both; if both are 0, nothing is pooled.
    Scales and offsets are in `scales`, from the elements `scale` and `offset` on. NaN is larger than any number.
    """
    index = types.intp
    signature = types.void(*(x, index, index, index), *(scales, index, index), x.dtype, *(y, index))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = Code(context, builder, signature, args, x.dtype)
        source, factors, target = (code.array(at).data for at in (0, 4, 8))
        lower, corner = builder.add(args[1], args[3]), builder.add(args[1], builder.add(args[2], args[3]))
        window = args[1], builder.add(args[1], args[2]), lower, corner
        bound = code.broadcast(args[7])

        def larger(first: Any, second: Any) -> Any:
            is_second = builder.or_(
                builder.fcmp_ordered(">", second, first), builder.fcmp_unordered("uno", second, second)
            )
            return builder.select(is_second, second, first)

        for v in range(PANEL_VECTORS):
            lane = code.integer(v * code.lanes)
            scale, offset = (code.load(factors, builder.add(args[at], lane)) for at in (5, 6))
            values = [code.multiply_add(code.load(source, builder.add(at, lane)), scale, offset) for at in window]
            value = larger(larger(values[0], values[1]), larger(values[2], values[3]))
            value = builder.select(builder.fcmp_ordered("<=", value, bound), bound, value)
            code.store(value, target, builder.add(args[9], lane))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def prefetch(typing_context: Any, x: Any, at: Any) -> Any:
    """Begin to bring the cache line of element `at` of `x` into the cache."""
    signature = types.void(x, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, integer = Code(context, builder, signature, args, x.dtype).array(0).data, ir.IntType(32)
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        function = ir.FunctionType(ir.VoidType(), [pointer.type, integer, integer, integer])
        to_read, keep, is_data = integer(0), integer(3), integer(1)
        builder.call(
            cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0"),
            [pointer, to_read, keep, is_data],
        )
        return context.get_dummy_value()

    return signature, codegen


@jit
def multiples(count: int, step: int) -> np.ndarray:
    """0, step, 2 step, ...: a separate function, so that Numba does not parallelise the loop."""
    result = np.empty(count, np.intp)
    for k in range(count):
        result[k] = k * step
    return result


@jit
def scratch(count: int, like: np.ndarray) -> np.ndarray:
    """An uninitialised array of `count` elements with the dtype of `like`, aligned to PANEL_BYTES."""
    memory = np.empty(count + PANEL_BYTES // like.itemsize, like.dtype)
    first = -memory.ctypes.data % PANEL_BYTES // like.itemsize
    return memory[first : first + count]
