"""exp, tanh and the normal distribution inside Numba loops.

In float32 they are branch-free polynomials, so that LLVM turns a loop of them into vector instructions: 20 to 50 times
faster than one call of the C library an element. In float64, which is there for gradient checks, they are the C
library's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import overload

from gpunet.ops._numba import numba

_OPTIONS: Any = {"fastmath": {"contract"}}  # fused multiply-adds only: NaN and infinities keep their meaning

_f = np.float32
_ZERO, _HALF, _ONE, _TWO = _f(0), _f(0.5), _f(1), _f(2)

# exp: Cephes' expf.c (S. L. Moshier): x = k ln 2 + r with ln 2 in two parts, and a polynomial for |r| <= ln 2 / 2.
_LOG2E, _LN2_HIGH, _LN2_LOW = _f(1.44269504088896341), _f(0.693359375), _f(-2.12194440e-4)
_E2, _E3, _E4 = _f(5.0000001201e-1), _f(1.6666665459e-1), _f(4.1665795894e-2)
_E5, _E6, _E7 = _f(8.3334519073e-3), _f(1.3981999507e-3), _f(1.9875691500e-4)
_LOWEST = _f(-87.33)  # below, exp is no normal float32
_BIAS, _MANTISSA = np.int32(127), np.int32(23)

# tanh where |x| < 0.625: Cephes' tanhf.c.
_T_LIMIT = _f(0.625)
_T3, _T5, _T7 = _f(-3.33332819422e-1), _f(1.33314422036e-1), _f(-5.37397155531e-2)
_T9, _T11 = _f(2.06390887954e-2), _f(-5.70498872745e-3)

# erfcx(a / sqrt(2)) / 2 for a in [0, 13.3] as a polynomial in t = (a - 3) / (a + 3), the transformation of Shepherd &
# Laframboise, Math. Comp. 36 (1981); minimax coefficients by Lawson's iteration, relative error 6.7e-9.
_SHIFT, _SHIFT2 = _f(3), _f(6)
_P0, _P1, _P2 = _f(1.21513948e-01), _f(-2.06402618e-01), _f(1.23225022e-01)
_P3, _P4, _P5 = _f(-4.62133138e-02), _f(6.13218313e-03), _f(2.90470262e-03)
_P6, _P7, _P8, _P9 = _f(-9.84183008e-04), _f(-3.39911433e-04), _f(1.16037626e-04), _f(5.41510250e-05)

_SQRT_HALF = math.sqrt(0.5)


def exp_nonpositive(x: Any) -> Any:
    """exp(x) for x <= 0; float32 results below the smallest normal number become 0."""
    raise NotImplementedError("only inside Numba functions")


def normal_tail(a: Any) -> Any:
    """For a >= 0: the probability that a standard normal number exceeds a, and exp(-a**2 / 2)."""
    raise NotImplementedError("only inside Numba functions")


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    raise NotImplementedError("only inside Numba functions")


@overload(exp_nonpositive, jit_options=_OPTIONS)
def _exp_nonpositive(x):
    if x != numba.float32:
        return lambda x: math.exp(x)

    def single(x):
        # The exponent comes from a bounded value, as the conversion of NaN or infinity to an integer is undefined.
        k = np.floor((x if x > _LOWEST else _LOWEST) * _LOG2E + _HALF)
        r = (x - k * _LN2_HIGH) - k * _LN2_LOW
        p = ((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2
        power = np.int32((np.int32(k) + _BIAS) << _MANTISSA).view(np.float32)
        return _ZERO if x < _LOWEST else (p * r * r + r + _ONE) * power

    return single


@overload(normal_tail, jit_options=_OPTIONS)
def _normal_tail(a):
    if a != numba.float32:
        return lambda a: (0.5 * math.erfc(a * _SQRT_HALF), math.exp(-0.5 * a * a))

    def single(a):
        e = exp_nonpositive(-_HALF * a * a)
        t = _ONE - _SHIFT2 / (a + _SHIFT)
        p = ((((_P9 * t + _P8) * t + _P7) * t + _P6) * t + _P5) * t + _P4
        return ((((p * t + _P3) * t + _P2) * t + _P1) * t + _P0) * e, e

    return single


@overload(tanh, jit_options=_OPTIONS)
def _tanh(x):
    if x != numba.float32:
        return lambda x: math.tanh(x)

    def single(x):
        a = abs(x)
        z = x * x
        near_zero = ((((_T11 * z + _T9) * z + _T7) * z + _T5) * z + _T3) * z * x + x
        e = exp_nonpositive(-_TWO * a)
        large = (_ONE - e) / (_ONE + e)
        return near_zero if a < _T_LIMIT else (-large if x < _ZERO else large)

    return single
