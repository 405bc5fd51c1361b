"""SIMD code for sums over the rows of a matrix; see :mod:`gpunet.ops._simd`.

The sums of some vectors of columns stay in registers, where a Python loop over the columns of each row would load and
store them: of several vectors, so that memory is read in order. Four rows are added up at a time, then those that are
left one by one, so that the bits do not depend on the width of the vectors.

The matrices of a call lie alike: their first row begins at `start`, rows are `stride` elements apart, and have so many
`columns`. The sums of the columns go to other arrays, from position `to` on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._simd import MANY_REGISTERS, Code

_VECTORS = 4 if MANY_REGISTERS else 2
"""Vectors of columns whose sums are in registers at once."""
Terms = Callable[[Any], Sequence[Any]]
"""Emits what a row adds to each of the sums, given the position of its first column."""


class _Columns:
    """Emits the code for a vector of columns; `mask` is that of a part of one, else None."""

    def __init__(self, code: Code, mask: Any) -> None:
        self.code, self.builder, self.mask = code, code.builder, mask

    def load(self, data: Any, at: Any) -> Any:
        return self.code.load(data, at) if self.mask is None else self.code.load_masked(data, at, self.mask)

    def store(self, value: Any, data: Any, at: Any) -> None:
        if self.mask is None:
            self.code.store(value, data, at)
        else:
            self.code.store_masked(value, data, at, self.mask)


def _sums(code: Code, of_row: Callable[[Any], Sequence[Any]], count: int, rows: Any) -> list[Any]:
    """Emit the sums over `rows` rows of each of the `count` terms of a row."""
    builder = code.builder
    with builder.goto_entry_block():
        totals = [builder.alloca(code.vector) for _ in range(count)]
    for total in totals:
        builder.store(code.constant(0), total)

    def add(addends: Sequence[Any]) -> None:
        for total, addend in zip(totals, addends, strict=True):
            builder.store(builder.fadd(builder.load(total), addend), total)

    quads = builder.sdiv(rows, code.integer(4))
    with cgutils.for_range(builder, quads) as loop:
        first = builder.mul(loop.index, code.integer(4))
        four = [of_row(builder.add(first, code.integer(k))) for k in range(4)]
        add([builder.fadd(builder.fadd(a, b), builder.fadd(c, d)) for a, b, c, d in zip(*four, strict=True)])
    with cgutils.for_range(builder, rows, start=builder.mul(quads, code.integer(4))) as loop:
        add(of_row(loop.index))
    return [builder.load(total) for total in totals]


def _emit(
    context: Any, builder: Any, signature: Any, args: Any, names: str, terms: Callable[[_Columns, Any], Terms]
) -> Any:
    """The code of an intrinsic whose arguments have these `names`; `terms` is given the addresses of its arrays."""
    of = dict(zip(names.split(), range(len(args)), strict=True))
    code = Code(context, builder, signature, args, signature.args[0].dtype)
    data = {name: code.array(at).data for name, at in of.items() if isinstance(signature.args[at], types.Array)}
    values = {name: args[at] for name, at in of.items()}
    results = [name for name in ("total", "first", "second") if name in of]

    def write(part: _Columns, column: Any, vectors: int) -> None:
        """The sums of some `vectors` of columns from `column` on."""
        places = []
        for k in range(vectors):
            here = builder.add(column, code.integer(k * code.lanes))
            places.append({name: builder.add(values[name], here) for name in ("start", "to")})
        of_vector = [terms(part, {**values, **data, **place}) for place in places]

        def of_row(row: Any) -> list[Any]:
            distance = builder.mul(row, values["stride"])
            starts = [builder.add(place["start"], distance) for place in places]
            return [term for each, start in zip(of_vector, starts, strict=True) for term in each(start)]

        found = _sums(code, of_row, vectors * len(results), values["rows"])
        for k, place in enumerate(places):
            for number, name in enumerate(results):
                part.store(found[k * len(results) + number], data[name], place["to"])

    done = code.integer(0)
    for vectors in (_VECTORS, 1):
        size = code.integer(vectors * code.lanes)
        end = builder.mul(builder.sdiv(values["columns"], size), size)
        with cgutils.for_range_slice(builder, done, end, size) as (column, _):
            write(_Columns(code, None), column, vectors)
        done = end
    rest = builder.sub(values["columns"], done)
    with builder.if_then(builder.icmp_signed(">", rest, code.integer(0))):
        write(_Columns(code, code.first(rest)), done, 1)
    return context.get_dummy_value()


def _signature(before: Sequence[Any], after: Sequence[Any]) -> Any:
    return types.void(*before, *[types.intp] * 4, *after, types.intp)


@intrinsic
def sum_columns(
    typing_context: Any, x: Any, start: Any, stride: Any, rows: Any, columns: Any, total: Any, to: Any
) -> Any:
    """The sums of x, in `total`."""

    def terms(part: _Columns, data: Any) -> Terms:
        return lambda at: [part.load(data["x"], at)]

    def codegen(*call: Any) -> Any:
        return _emit(*call, "x start stride rows columns total to", terms)

    return _signature([x], [total]), codegen


@intrinsic
def sum_before_relu(
    typing_context: Any,
    dy: Any,
    y: Any,
    masked: Any,
    start: Any,
    stride: Any,
    rows: Any,
    columns: Any,
    total: Any,
    to: Any,
) -> Any:
    """dy where y, the output of a ReLU, is positive, else 0: in `masked`, and the sums in `total`."""

    def terms(part: _Columns, data: Any) -> Terms:
        def of_row(at: Any) -> Sequence[Any]:
            zero = part.code.constant(0)
            is_cut = part.builder.fcmp_ordered("<=", part.load(data["y"], at), zero)
            value = part.builder.select(is_cut, zero, part.load(data["dy"], at))
            part.store(value, data["masked"], at)
            return [value]

        return of_row

    def codegen(*call: Any) -> Any:
        return _emit(*call, "dy y masked start stride rows columns total to", terms)

    return _signature([dy, y, masked], [total]), codegen


@intrinsic
def sum_deviations(
    typing_context: Any,
    x: Any,
    start: Any,
    stride: Any,
    rows: Any,
    columns: Any,
    first: Any,
    second: Any,
    to: Any,
) -> Any:
    """The sums of x minus its first row, in `first`, and of the squares of that, in `second`."""

    def terms(part: _Columns, data: Any) -> Terms:
        shift = part.load(data["x"], data["start"])

        def of_row(at: Any) -> Sequence[Any]:
            deviation = part.builder.fsub(part.load(data["x"], at), shift)
            return deviation, part.builder.fmul(deviation, deviation)

        return of_row

    def codegen(*call: Any) -> Any:
        return _emit(*call, "x start stride rows columns first second to", terms)

    return _signature([x], [first, second]), codegen


@intrinsic
def sum_products(
    typing_context: Any,
    dy: Any,
    x: Any,
    start: Any,
    stride: Any,
    rows: Any,
    columns: Any,
    shift: Any,
    first: Any,
    second: Any,
    to: Any,
) -> Any:
    """The sums of dy, in `first`, and of dy times x minus `shift`, of each column, in `second`."""

    def terms(part: _Columns, data: Any) -> Terms:
        shift = part.load(data["shift"], data["to"])

        def of_row(at: Any) -> Sequence[Any]:
            d = part.load(data["dy"], at)
            return d, part.builder.fmul(d, part.builder.fsub(part.load(data["x"], at), shift))

        return of_row

    def codegen(*call: Any) -> Any:
        return _emit(*call, "dy x start stride rows columns shift first second to", terms)

    return _signature([dy, x], [shift, first, second]), codegen
