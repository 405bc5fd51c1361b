"""SIMD code for operations on each element, which memory bounds; see :mod:`gpunet.ops._simd`.

A store to memory that is in no cache reads its line first. Where the result is too large for the caches, vectors are
therefore stored past them ("non-temporal"), which takes a quarter off the time of an operation on two arrays. Loops in
Python cannot say so, nor can what they compute be copied afterwards: reading and writing would take turns. Such stores
are seen by other threads once a locked instruction has followed, as that with which a thread of a loop over ``prange``
asks for what is left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._numba import jit
from gpunet.ops._simd import VECTOR_BYTES, Code

STREAMED_BYTES = 2**24
"""Arrays of so many bytes are not in a cache when the next op reads them, wherever they are written."""


@jit
def is_streamed(y: Any, columns: int) -> bool:
    """Whether :func:`elementwise` may store to `y` past the caches: large, and its rows begin at whole vectors."""
    aligned = y.ctypes.data % VECTOR_BYTES == 0 and columns * y.itemsize % VECTOR_BYTES == 0
    return y.nbytes >= STREAMED_BYTES and aligned


Vectors = Callable[[int], Any]


class Operands:
    """Of an operation, as vectors."""

    def __init__(self, code: Code, a: Any, b: Any, factors: Vectors, constant: Vectors) -> None:
        self.code, self.builder, self.a, self.b = code, code.builder, a, b
        self.factors = factors
        """``factors(j)``: those in row j, of these columns."""
        self.constant = constant
        """``constant(j)``: the one at j, in all lanes."""


def elementwise(value: Callable[[Operands], Any]) -> Any:
    """An intrinsic that computes a vector of `y` at a time.

    ``operation(a, b, factors, y, start, rows, columns, streamed)``

    `a`, `b` and `y` are flat: rows of so many `columns`, the first of which begins at `start`. The flat `factors` are
    rows of as many, or just constants.
    """

    @intrinsic
    def operation(
        typing_context: Any,
        a: Any,
        b: Any,
        factors: Any,
        y: Any,
        start: Any,
        rows: Any,
        columns: Any,
        streamed: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(a, b, factors, y, index, index, index, types.boolean)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = Code(context, builder, signature, args, y.dtype)
            of_a, of_b, of_factors, of_y = (code.array(at).data for at in range(4))
            lanes, width = code.integer(code.lanes), args[6]
            past_caches = builder.module.add_metadata([ir.IntType(32)(1)])

            def compute(at: Any, column: Any, load: Callable[[Any, Any], Any]) -> Any:
                def factors(j: int) -> Any:
                    return load(of_factors, builder.add(builder.mul(width, code.integer(j)), column))

                def constant(j: int) -> Any:
                    return code.broadcast(code.element(of_factors, code.integer(j)))

                return value(Operands(code, load(of_a, at), load(of_b, at), factors, constant))

            def run(row: Any, nontemporal: bool) -> None:
                whole = builder.sdiv(width, lanes)
                with cgutils.for_range(builder, whole) as loop:
                    column = builder.mul(loop.index, lanes)
                    at = builder.add(row, column)
                    result = compute(at, column, code.load)
                    if nontemporal:
                        pointer = builder.bitcast(builder.gep(of_y, [at]), code.vector.as_pointer())
                        store = builder.store(result, pointer, align=VECTOR_BYTES)
                        store.set_metadata("nontemporal", past_caches)
                    else:
                        code.store(result, of_y, at)
                if not nontemporal:
                    column = builder.mul(whole, lanes)
                    rest, at = builder.sub(width, column), builder.add(row, column)
                    with builder.if_then(builder.icmp_signed(">", rest, code.integer(0))):
                        mask = code.first(rest)
                        result = compute(at, column, lambda data, at: code.load_masked(data, at, mask))
                        code.store_masked(result, of_y, at, mask)

            with cgutils.for_range(builder, args[5]) as loop:
                row = builder.add(args[4], builder.mul(loop.index, width))
                with builder.if_else(args[7]) as (then, otherwise):
                    with then:
                        run(row, nontemporal=True)
                    with otherwise:
                        run(row, nontemporal=False)
            return context.get_dummy_value()

        return signature, codegen

    return operation
