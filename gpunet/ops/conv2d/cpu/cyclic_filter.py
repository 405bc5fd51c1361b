"""The matrices of a 3x3 convolution of whole 3x3 maps with a border of zeros, with 22 multiplications.

F(3x3, 3x3) takes 25. A window of the map begins and ends with a zero. Since one serves both sides, the convolution is a
cyclic one of length 4 in each direction: a product of discrete Fourier transforms, in which 1, -1 and i are the only
factors. Of a spectrum of four real numbers, *slots* are kept: the values at 1 and -1, then the real and the imaginary
part of that at i. In two dimensions, where both are complex, the slots RR, RI, IR and II give the values at (i, i) and
(i, -i). Of each of the six complex numbers three *points* are kept, its real part, its imaginary part and their sum:
products of these give the complex product with three multiplications (Gauss).

Source: Blahut, Fast Algorithms for Signal Processing, 2010, sections 1.1 (Gauss) and 2.1; the two-dimensional transform
of real numbers as in Zlateski, Jia, Li & Durand, The Anatomy of Efficient FFT and Winograd Convolutions on Modern CPUs,
ICS 2019.
"""

from __future__ import annotations

from fractions import Fraction

from gpunet.ops.conv2d.cpu.cook_toom import Matrix

POINTS = 22


def _matrix(rows: list[list[int]], divisor: int = 1) -> Matrix:
    return [[Fraction(entry, divisor) for entry in row] for row in rows]


INPUTS = _matrix([[1, 1, 1], [-1, 1, -1], [0, -1, 0], [-1, 0, 1]])
"""The slots of 0, d1, d2, d3."""
TAPS = _matrix([[1, 1, 1], [1, -1, 1], [2, 0, -2], [0, 2, 0]], 4)
"""The slots of the conjugate of the spectrum of g0, g1, g2, 0, divided by 4. That at i counts twice, for that at -i."""
OUTPUTS = _matrix([[1, 1, 1, 0], [1, -1, 0, -1], [1, 1, -1, 0]])
"""Three of the four numbers of which these are the slots, multiplied as those of the taps are."""

_NUMBERS = [(2, 3), (6, 7), (8, 12), (9, 13), (10, 11), (14, 15)]
"""Slots of the real and the imaginary part of each complex number; the last two after :func:`_values`."""


def _unit(*signed: tuple[int, int], size: int = 16) -> list[int]:
    """A row with these entries: (position, value)."""
    return [dict(signed).get(k, 0) for k in range(size)]


def _values(divisor: int = 1) -> Matrix:
    """From the slots RR, RI, IR and II to real and imaginary part at (i, i), then at (i, -i)."""
    rows = _matrix([_unit((k, 1)) for k in range(16)])
    combined = [[(10, 1), (15, -1)], [(11, 1), (14, 1)], [(10, 1), (15, 1)], [(14, 1), (11, -1)]]
    for slot, entries in zip((10, 11, 14, 15), combined, strict=True):
        rows[slot] = [Fraction(entry, divisor) for entry in _unit(*entries)]
    return rows


def _points() -> Matrix:
    """The real slots, and real part, imaginary part and sum of each complex number."""
    rows = [_unit((k, 1)) for k in (0, 1, 4, 5)]
    for real, imaginary in _NUMBERS:
        rows += [_unit((real, 1)), _unit((imaginary, 1)), _unit((real, 1), (imaginary, 1))]
    return _matrix(rows)


def _products() -> list[Matrix]:
    """From the products of points to slots: p - q and r - p - q, then RR, RI, IR and II, twice as large."""
    rows = {slot: _unit((k, 1), size=POINTS) for k, slot in enumerate((0, 1, 4, 5))}
    for k, (real, imaginary) in enumerate(_NUMBERS):
        p = 4 + 3 * k
        rows[real] = _unit((p, 1), (p + 1, -1), size=POINTS)
        rows[imaginary] = _unit((p, -1), (p + 1, -1), (p + 2, 1), size=POINTS)
    slots = [_unit((k, 1)) for k in range(16)]
    slots[10], slots[15] = _unit((10, 1), (14, 1)), _unit((14, 1), (10, -1))
    slots[11], slots[14] = _unit((11, 1), (15, -1)), _unit((11, 1), (15, 1))
    return [_matrix([rows[k] for k in range(16)]), _matrix(slots)]


INPUT_MIX = [_values(), _points()]
TAP_MIX = [_values(divisor=2), _points()]
OUTPUT_MIX = _products()
"""From 16 slots to points, and back."""
