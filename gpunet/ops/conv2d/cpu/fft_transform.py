"""The transforms of convolution by FFT, as SIMD code; see :mod:`gpunet.ops._simd`.

The two-dimensional transform of a real n x n window is one of its columns, then one of the rows of their spectra. A
spectrum of n real numbers is n numbers again, in *slots*: the first and the middle one, which are real, then the real
and the imaginary part of each of the others; the rest are conjugates of these. Slots 0 and 1 are *group* 0, slots 2 k
and 2 k + 1 group k: the rows of a group are transformed together.

Of each complex number of the result three *points* are kept: its real part, its imaginary part and their sum. The
products of these with those of another number give the complex product with three multiplications (Gauss).

Source: Zlateski, Jia, Li & Durand, The Anatomy of Efficient FFT and Winograd Convolutions on Modern CPUs, ICS 2019
("Gauss-FFT"); the transform of real numbers in Sorensen, Jones, Heideman & Burrus, Real-Valued Fast Fourier Transform
Algorithms, IEEE ASSP, 1987.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba.core import cgutils, types
from numba.extending import intrinsic

from gpunet.ops._simd import Code


def real_points(n: int) -> int:
    """Points of the transform of n real numbers."""
    return 2 + 3 * (n // 2 - 1)


def points_of(n: int) -> int:
    """Points of the transform of a real n x n window."""
    return 2 * real_points(n) + (n // 2 - 1) * 3 * n


class _Complex(NamedTuple):
    """A complex number of vectors; None stands for zero, of which nothing is computed."""

    real: Any
    imaginary: Any = None


class _Fourier:
    """Emits one-dimensional transforms, with a factor of exp(sign * 2 pi i j k / n)."""

    def __init__(self, code: Code, sign: int) -> None:
        self.code, self.sign = code, sign

    def _sum(self, a: Any, b: Any) -> Any:
        return b if a is None else a if b is None else self.code.builder.fadd(a, b)

    def _difference(self, a: Any, b: Any) -> Any:
        if b is None:
            return a
        return self.code.builder.fneg(b) if a is None else self.code.builder.fsub(a, b)

    def _dot(self, a: Any, x: float, b: Any, y: float) -> Any:
        """a * x + b * y."""
        for first, factor, second, other in ((a, x, b, y), (b, y, a, x)):
            if first is None or factor == 0:
                if second is None or other == 0:
                    return None
                if abs(other) == 1:
                    return second if other == 1 else self.code.builder.fneg(second)
                return self.code.builder.fmul(second, self.code.constant(other))
        product = self.code.builder.fmul(b, self.code.constant(y))
        return self.code.multiply_add(a, self.code.constant(x), product)

    def _turned(self, value: _Complex, k: int, n: int) -> _Complex:
        """`value` times exp(sign * 2 pi i k / n)."""
        quarter, rest = divmod(4 * k, n)
        c, s = math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n)
        if rest == 0:  # exactly
            c, s = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[quarter % 4]
        s *= self.sign
        return _Complex(self._dot(value.real, c, value.imaginary, -s), self._dot(value.imaginary, c, value.real, s))

    def _add(self, a: _Complex, b: _Complex) -> _Complex:
        return _Complex(self._sum(a.real, b.real), self._sum(a.imaginary, b.imaginary))

    def _subtract(self, a: _Complex, b: _Complex) -> _Complex:
        return _Complex(self._difference(a.real, b.real), self._difference(a.imaginary, b.imaginary))

    def _conjugate(self, a: _Complex) -> _Complex:
        return _Complex(a.real, self._difference(None, a.imaginary) if a.imaginary is not None else None)

    def of_complex(self, values: list[_Complex]) -> list[_Complex]:
        """The transform of complex numbers: of those of even and odd numbers (Cooley-Tukey)."""
        n = len(values)
        if n == 1:
            return values
        even, odd = self.of_complex(values[::2]), self.of_complex(values[1::2])
        odd = [self._turned(value, k, n) for k, value in enumerate(odd)]
        return [self._add(a, b) for a, b in zip(even, odd, strict=True)] + [
            self._subtract(a, b) for a, b in zip(even, odd, strict=True)
        ]

    def of_real(self, values: list[Any]) -> list[_Complex]:
        """The first n // 2 + 1 numbers of the transform of real ones; the others are their conjugates."""
        n = len(values)
        if n == 1:
            return [_Complex(values[0])]
        even, odd = self.of_real(values[::2]), self.of_real(values[1::2])
        found = [_Complex(None)] * (n // 2 + 1)
        for k, value in enumerate(odd):
            turned = self._turned(value, k, n)
            found[n // 2 - k] = self._conjugate(self._subtract(even[k], turned))
            found[k] = self._add(even[k], turned)
        return found

    def to_real(self, values: list[_Complex]) -> list[Any]:
        """The n real numbers whose transform, with the other sign, is `values`: n times as large."""
        n = 2 * (len(values) - 1)
        if n == 0:
            return [values[0].real]
        even, odd = [], []
        for k in range(n // 4 + 1 if n > 2 else 1):
            mirrored = self._conjugate(values[n // 2 - k])
            even.append(self._add(values[k], mirrored))
            odd.append(self._turned(self._subtract(values[k], mirrored), k, n))
        return [value for pair in zip(self.to_real(even), self.to_real(odd), strict=True) for value in pair]


class _Emitter:
    """What the transforms have in common: addresses, and parts of a window that are not there."""

    def __init__(
        self, context: Any, builder: Any, signature: Any, args: Any, dtype: Any, arrays: tuple[int, int]
    ) -> None:
        self.code, self.builder, self.args = Code(context, builder, signature, args, dtype), builder, args
        self.data = [self.code.array(at).data for at in arrays]
        self.zero = self.code.constant(0)

    def sum(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.add(total, term)
        return total

    def times(self, factor: Any, number: Any) -> Any:
        return self.builder.mul(factor, self.code.integer(number) if isinstance(number, int) else number)

    def between(self, n: int, first: Any, end: Any, step: Any) -> list[tuple[Any, Any]]:
        """Of each of n entries whether it is at ``first <= i < end``, and its distance; 0 if it is not."""
        found = []
        for i in map(self.code.integer, range(n)):
            before, after = self.builder.icmp_signed("<", i, first), self.builder.icmp_signed(">=", i, end)
            there = self.builder.not_(self.builder.or_(before, after))
            found.append((there, self.builder.mul(step, self.builder.select(there, i, self.code.integer(0)))))
        return found

    def load_all(self, start: Any, entries: list[tuple[Any, Any]]) -> list[Any]:
        """The entries there are, and zeros."""
        loaded = [self.code.load(self.data[0], self.sum(start, distance)) for _, distance in entries]
        return [self.builder.select(there, value, self.zero) for (there, _), value in zip(entries, loaded, strict=True)]

    def clipped(self, n: int, count: Any, step: Any) -> list[Any]:
        """Distances of n entries. Those from `count` on are at that of the last: they are to be stored before it."""
        last = self.builder.sub(count, self.code.integer(1))
        entries = [self.code.integer(i) for i in range(n)]
        return [self.times(step, self.builder.select(self.builder.icmp_signed("<", i, last), i, last)) for i in entries]

    def store(self, value: Any, *terms: Any) -> None:
        self.code.store(value, self.data[1], self.sum(*terms))


def column_transform(n: int) -> Any:
    """An intrinsic that transforms columns of up to n real numbers to slots.

    ``transform(x, x_start, x_row, x_column, columns, first, end, y, y_start, y_slot, y_column, steps)``

    Entry (i, j) is a vector of channels at ``x_start + i * x_row + j * x_column``, taken for zero unless
    ``first <= i < end``. Slot k of column j is at ``y_start + k * y_slot + j * y_column``. There are `columns`, and in
    each `steps` vectors, one after the other.
    """

    @intrinsic
    def transform(
        typing_context: Any,
        x: Any,
        x_start: Any,
        x_row: Any,
        x_column: Any,
        columns: Any,
        first: Any,
        end: Any,
        y: Any,
        y_start: Any,
        y_slot: Any,
        y_column: Any,
        steps: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(x, *(index,) * 6, y, *(index,) * 4)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit = _Emitter(context, builder, signature, args, x.dtype, (0, 7))
            fourier, entries = _Fourier(emit.code, -1), emit.between(n, args[5], args[6], args[2])
            with cgutils.for_range(builder, args[4]) as column, cgutils.for_range(builder, args[11]) as vector:
                step = emit.times(vector.index, emit.code.lanes)
                start = emit.sum(args[1], emit.times(args[3], column.index), step)
                to = emit.sum(args[8], emit.times(args[10], column.index), step)
                found = fourier.of_real(emit.load_all(start, entries))
                parts = [found[0].real, found[-1].real]
                for value in found[1:-1]:
                    parts += value
                for slot, part in enumerate(parts):
                    emit.store(part, to, emit.times(args[9], slot))
            return context.get_dummy_value()

        return signature, codegen

    return transform


def row_transform(n: int, *, real: bool, conjugate: bool = False) -> Any:
    """An intrinsic that transforms a row of up to n slots, or of complex numbers in two slots, to points.

    ``transform(x, x_start, x_slot, x_column, first, end, y, y_start, y_point, y_step, steps)``

    Column j of the row is a vector of channels at ``x_start + j * x_column``, its imaginary part unless it is `real`
    one `x_slot` further; it is taken for zero unless ``first <= j < end``. Point k is at ``y_start + k * y_point``.
    There are `steps` vectors, one after the other in x, `y_step` apart in y. The `conjugate` is divided by n^2.
    """

    @intrinsic
    def transform(
        typing_context: Any,
        x: Any,
        x_start: Any,
        x_slot: Any,
        x_column: Any,
        first: Any,
        end: Any,
        y: Any,
        y_start: Any,
        y_point: Any,
        y_step: Any,
        steps: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(x, *(index,) * 5, y, *(index,) * 4)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit = _Emitter(context, builder, signature, args, x.dtype, (0, 6))
            fourier, entries = _Fourier(emit.code, -1), emit.between(n, args[4], args[5], args[3])
            with cgutils.for_range(builder, args[10]) as vector:
                start = emit.sum(args[1], emit.times(vector.index, emit.code.lanes))
                to = emit.sum(args[7], emit.times(args[9], vector.index))
                values = emit.load_all(start, entries)
                if real:
                    found = fourier.of_real(values)
                    ends, inner = [found[0].real, found[-1].real], found[1:-1]
                else:
                    others = emit.load_all(emit.sum(start, args[2]), entries)
                    pairs = zip(values, others, strict=True)
                    ends, inner = [], fourier.of_complex([_Complex(*pair) for pair in pairs])
                points = ends
                for value in inner:
                    if conjugate:
                        difference = builder.fsub(value.real, value.imaginary)
                        points += [value.real, builder.fneg(value.imaginary), difference]
                    else:
                        points += [*value, builder.fadd(*value)]
                for k, point in enumerate(points):
                    scaled = builder.fmul(point, emit.code.constant(1 / n**2)) if conjugate else point
                    emit.store(scaled, to, emit.times(args[8], k))
            return context.get_dummy_value()

        return signature, codegen

    return transform


def inverse_row_transform(n: int, *, real: bool) -> Any:
    """An intrinsic that transforms sums of products of points back to a row, n times as large.

    ``transform(x, x_start, x_point, y, y_start, y_slot, y_column, steps, columns)``, the inverse of
    :func:`row_transform`. Only the first `columns` are stored; `steps` vectors follow each other in x and y.
    """

    @intrinsic
    def transform(
        typing_context: Any,
        x: Any,
        x_start: Any,
        x_point: Any,
        y: Any,
        y_start: Any,
        y_slot: Any,
        y_column: Any,
        steps: Any,
        columns: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(x, index, index, y, *(index,) * 5)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit = _Emitter(context, builder, signature, args, x.dtype, (0, 3))
            fourier, places = _Fourier(emit.code, 1), emit.clipped(n, args[8], args[6])
            with cgutils.for_range(builder, args[7]) as vector:
                step = emit.times(vector.index, emit.code.lanes)
                start, to = emit.sum(args[1], step), emit.sum(args[4], step)

                def point(k: int) -> Any:
                    return emit.code.load(emit.data[0], emit.sum(start, emit.times(args[2], k)))

                def number(k: int) -> _Complex:
                    p, q, r = point(k), point(k + 1), point(k + 2)
                    return _Complex(builder.fsub(p, q), builder.fsub(r, builder.fadd(p, q)))

                if real:
                    inner = [number(2 + 3 * k) for k in range(n // 2 - 1)]
                    row = [
                        _Complex(value) for value in fourier.to_real([_Complex(point(0)), *inner, _Complex(point(1))])
                    ]
                else:
                    row = fourier.of_complex([number(3 * k) for k in range(n)])
                for j in reversed(range(n)):
                    emit.store(row[j].real, to, places[j])
                    if not real:
                        emit.store(row[j].imaginary, to, places[j], args[5])
            return context.get_dummy_value()

        return signature, codegen

    return transform


def inverse_column_transform(n: int) -> Any:
    """An intrinsic that transforms columns of slots back to real numbers, n times as large.

    ``transform(x, x_start, x_slot, x_column, columns, y, y_start, y_row, y_column, steps, rows)``, the inverse of
    :func:`column_transform`. Only the first `rows` are stored.
    """

    @intrinsic
    def transform(
        typing_context: Any,
        x: Any,
        x_start: Any,
        x_slot: Any,
        x_column: Any,
        columns: Any,
        y: Any,
        y_start: Any,
        y_row: Any,
        y_column: Any,
        steps: Any,
        rows: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(x, *(index,) * 4, y, *(index,) * 5)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit = _Emitter(context, builder, signature, args, x.dtype, (0, 5))
            fourier, places = _Fourier(emit.code, 1), emit.clipped(n, args[10], args[7])
            with cgutils.for_range(builder, args[4]) as column, cgutils.for_range(builder, args[9]) as vector:
                step = emit.times(vector.index, emit.code.lanes)
                start = emit.sum(args[1], emit.times(args[3], column.index), step)
                to = emit.sum(args[6], emit.times(args[8], column.index), step)
                slots = [emit.code.load(emit.data[0], emit.sum(start, emit.times(args[2], k))) for k in range(n)]
                inner = [_Complex(slots[2 * k], slots[2 * k + 1]) for k in range(1, n // 2)]
                found = fourier.to_real([_Complex(slots[0]), *inner, _Complex(slots[1])])
                for i in reversed(range(n)):
                    emit.store(found[i], to, places[i])
            return context.get_dummy_value()

        return signature, codegen

    return transform
