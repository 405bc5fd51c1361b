"""SIMD code for the maxima of windows and their positions, as bytes for windows of 2x2; see :mod:`gpunet.ops._simd`.

LLVM's vectoriser spends most of its instructions on turning vectors of bytes into masks and back.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._simd import Code
from gpunet.ops.batchnorm_pool import NO_TAP


class _Window:
    """Emits what is done with a vector of windows."""

    def __init__(self, code: Code) -> None:
        self.code, self.builder = code, code.builder
        self.integers = ir.VectorType(ir.IntType(32), code.lanes)
        self.bytes = ir.VectorType(ir.IntType(8), code.lanes)

    def tap(self, number: int) -> Any:
        return ir.Constant(self.integers, [number] * self.code.lanes)

    def larger(self, first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
        """Of two pairs of values and taps. NaN is larger than any number, and the first if they are equal."""
        builder = self.builder
        greater = builder.fcmp_ordered(">", second[0], first[0])
        is_second = builder.or_(greater, builder.fcmp_unordered("uno", second[0], second[0]))
        value, tap = (builder.select(is_second, b, a) for a, b in zip(first, second, strict=True))
        return value, tap

    def _bytes_at(self, data: Any, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [at]), self.bytes.as_pointer())

    def load_taps(self, data: Any, at: Any) -> Any:
        return self.builder.zext(self.builder.load(self._bytes_at(data, at), align=1), self.integers)

    def store_taps(self, taps: Any, data: Any, at: Any) -> None:
        self.builder.store(self.builder.trunc(taps, self.bytes), self._bytes_at(data, at), align=1)


@intrinsic
def pool_window(
    typing_context: Any,
    x: Any,
    x_start: Any,
    right: Any,
    below: Any,
    relu: Any,
    y: Any,
    y_start: Any,
    argmax: Any,
    argmax_start: Any,
) -> Any:
    """The maximum of a window for a vector of channels, and its position; with `relu` 0 and NO_TAP if not positive.

    The window's elements are at ``x_start``, plus `right`, plus `below`, plus both.
    """
    index = types.intp
    signature = types.void(*(x, index, index, index), types.boolean, *(y, index), *(argmax, index))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = Code(context, builder, signature, args, x.dtype)
        window, data = _Window(code), code.array(0).data
        lower = builder.add(args[1], args[3])
        places = args[1], builder.add(args[1], args[2]), lower, builder.add(lower, args[2])
        entries = [(code.load(data, place), window.tap(k)) for k, place in enumerate(places)]
        value, tap = window.larger(window.larger(*entries[:2]), window.larger(*entries[2:]))
        zero = code.constant(0)
        flags = ir.Constant(ir.VectorType(ir.IntType(1), code.lanes), [1] * code.lanes)
        wanted = builder.select(args[4], flags, ir.Constant(flags.type, [0] * code.lanes))
        cut = builder.and_(wanted, builder.fcmp_ordered("<=", value, zero))
        code.store(builder.select(cut, zero, value), code.array(5).data, args[6])
        window.store_taps(builder.select(cut, window.tap(NO_TAP), tap), code.array(7).data, args[8])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def unpool_tap(
    typing_context: Any,
    dy: Any,
    dy_start: Any,
    argmax: Any,
    argmax_start: Any,
    tap: Any,
    fresh: Any,
    dx: Any,
    dx_start: Any,
) -> Any:
    """Add a vector of dy to dx where the maximum is at `tap` of the window; with `fresh` to 0 in place of dx."""
    index = types.intp
    signature = types.void(dy, index, argmax, index, argmax.dtype, types.boolean, dx, index)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = Code(context, builder, signature, args, dy.dtype)
        places = Code(context, builder, signature, args, argmax.dtype)
        places.lanes, places.vector = code.lanes, ir.VectorType(places.vector.element, code.lanes)
        is_here = builder.icmp_signed("==", places.load(places.array(2).data, args[3]), places.broadcast(args[4]))
        own = builder.select(is_here, code.load(code.array(0).data, args[1]), code.constant(0))
        total = cgutils.alloca_once_value(builder, own)
        with builder.if_then(builder.not_(args[5])):
            builder.store(builder.fadd(code.load(code.array(6).data, args[7]), own), total)
        code.store(builder.load(total), code.array(6).data, args[7])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def unpool_window(
    typing_context: Any,
    dy: Any,
    dy_start: Any,
    argmax: Any,
    argmax_start: Any,
    dx: Any,
    dx_start: Any,
    right: Any,
    below: Any,
) -> Any:
    """The gradient of :func:`pool_window`: that of y at the maximum, and 0 at the other elements of the window."""
    index = types.intp
    signature = types.void(*(dy, index), *(argmax, index), *(dx, index, index, index))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = Code(context, builder, signature, args, dy.dtype)
        window, zero = _Window(code), code.constant(0)
        gradient, taps = code.load(code.array(0).data, args[1]), window.load_taps(code.array(2).data, args[3])
        lower = builder.add(args[5], args[7])
        places = args[5], builder.add(args[5], args[6]), lower, builder.add(lower, args[6])
        for k, place in enumerate(places):
            is_here = builder.icmp_signed("==", taps, window.tap(k))
            code.store(builder.select(is_here, gradient, zero), code.array(4).data, place)
        return context.get_dummy_value()

    return signature, codegen
