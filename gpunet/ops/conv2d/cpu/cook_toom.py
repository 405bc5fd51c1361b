"""The matrices of Winograd's minimal filtering F(m, r): m outputs of an r-tap filter with m + r - 1 multiplications.

y = A^T [(G g) * (B^T d)] is exact for the filter g, the m + r - 1 inputs d and y_i = sum over k of g_k d_{i+k}. The
products are polynomials evaluated at the points below and at infinity (Cook-Toom).

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4; the general construction
in Blahut, Fast Algorithms for Signal Processing, 2010, section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

POINTS = {
    5: (Fraction(0), Fraction(1, 2), Fraction(-1), Fraction(2)),
    6: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
    7: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-1, 2), Fraction(3)),
    9: (
        *(Fraction(0), Fraction(1, 2), Fraction(-1, 2), Fraction(7, 8), Fraction(-7, 8)),
        *(Fraction(5, 4), Fraction(-5, 4), Fraction(7, 2)),
    ),
}
"""Interpolation points for each number of multiplications, besides infinity. Of those tried for F(3, 3) and F(4, 3),
these had the smallest float32 errors on random maps: half of those of the usual 0, 1, -1, 2, -2. For F(2, 5) they are
as good as others; for F(5, 3) others were better by a twentieth, but have more factors that are not 1. Of those for
F(7, 3), some had typical errors that are smaller by a tenth, and larger ones at worst. The resulting matrices B^T and
A^T are exact in float32. On the choice of points: Alam et al.,
Winograd Convolution for Deep Neural Networks: Efficient Point Selection, ACM TECS, 2022."""

Matrix = list[list[Fraction]]


class MinimalFilter(NamedTuple):
    """The three matrices of F(m, r)."""

    inputs: Matrix
    """B^T, (m + r - 1, m + r - 1)."""
    taps: Matrix
    """G, (m + r - 1, r)."""
    outputs: Matrix
    """A^T, (m, m + r - 1)."""


def _from_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients


def minimal_filter(m: int, r: int) -> MinimalFilter:
    """The matrices of F(m, r), with the points POINTS[m + r - 1] and infinity."""
    points = POINTS[m + r - 1]
    inputs, taps = [], []
    for k, point in enumerate(points):
        others = (*points[:k], *points[k + 1 :])
        inputs.append([*_from_roots(others), Fraction(0)])
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        taps.append([point**power / scale for power in range(r)])
    inputs.append(_from_roots(points))
    taps.append([Fraction(0)] * (r - 1) + [Fraction(1)])
    outputs = [[point**power for point in points] + [Fraction(power == m - 1)] for power in range(m)]
    return MinimalFilter(inputs, taps, outputs)


def transposed(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]


def paired(matrix: Matrix) -> list[Matrix]:
    """`matrix` as a product with fewer operations: factors, the first of which is to be applied first.

    Rows that differ in signs only, as those of the points p and -p, are the sum and the difference of two halves.
    """
    halves: Matrix = []
    sums: list[dict[int, int]] = []  # for each row the signs of the halves, by number
    for k, row in enumerate(matrix):
        twin = next((j for j in range(k) if [*map(abs, row)] == [*map(abs, matrix[j])]), None)
        if twin is None:
            sums.append({len(halves): 1})
            halves.append(row)
        else:
            (even,), odd = sums[twin], len(halves)
            sums[twin], halves[even] = {even: 1, odd: 1}, [(a + b) / 2 for a, b in zip(matrix[twin], row, strict=True)]
            sums.append({even: 1, odd: -1})
            halves.append([(a - b) / 2 for a, b in zip(matrix[twin], row, strict=True)])
    if all(len(found) == 1 for found in sums):
        return [matrix]
    return [halves, [[Fraction(found.get(k, 0)) for k in range(len(halves))] for found in sums]]


def input_factors(f: MinimalFilter) -> list[Matrix]:
    """B^T in factors. As polynomials, all rows but that of the last point p have the factor (x - p) in common.

    If -p is not a point, too, this factor comes first. What it leaves are rows to be :func:`paired`.
    """
    n = len(f.inputs)
    points, own = POINTS[n], n - 2
    single = points[own]
    if -single in points:
        return paired(f.inputs)
    powers = [k for k, entry in enumerate(f.inputs[own]) if entry]
    zeros = [Fraction(0)] * n
    first = [[*zeros[:k], -single, Fraction(1), *zeros[k + 2 :]] for k in range(n - 1)]
    first += [[Fraction(k == power) for k in range(n)] for power in powers]
    rest = [[*_quotient(row, single), *zeros[: len(powers)]] for row in f.inputs]
    rest[own] = [*zeros[: n - 1], *(f.inputs[own][power] for power in powers)]
    return [first, *paired(rest)]


def _quotient(coefficients: Sequence[Fraction], root: Fraction) -> list[Fraction]:
    """Of a polynomial, lowest power first, by (x - root)."""
    found, last = [], Fraction(0)
    for coefficient in reversed(coefficients[1:]):
        last = coefficient + root * last
        found.append(last)
    return found[::-1]
