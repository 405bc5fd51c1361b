"""The exponential for Numba kernels: in float32, a branch-free polynomial that LLVM vectorises.

Source: S. L. Moshier, Cephes Mathematical Library, expf.c.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba.extending import overload

from gpunet.ops._numba import numba

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)

# x = k ln 2 + r with ln 2 in two parts, and a polynomial for |r| <= ln 2 / 2.
_LOG2E, _LN2_HIGH, _LN2_LOW = _f(1.44269504088896341), _f(0.693359375), _f(-2.12194440e-4)
_E2, _E3, _E4 = _f(5.0000001201e-1), _f(1.6666665459e-1), _f(4.1665795894e-2)
_E5, _E6, _E7 = _f(8.3334519073e-3), _f(1.3981999507e-3), _f(1.9875691500e-4)
# Minimax by Lawson's algorithm, relative error 1.3e-8.
_LN2 = _f(math.log(2))
_M2, _M3, _M4 = _f(4.9999998155e-01), _f(1.6666543670e-01), _f(4.1667199646e-02)
_M5, _M6 = _f(8.3665139405e-03), _f(1.3882522781e-03)
_LOWEST = _f(-87.33)  # below this, exp is subnormal in float32
_ROUND = _f(1.5 * 2**23)  # to add it leaves a number rounded to an integer, in the lowest bits
_MANTISSA, _ONE_BITS = np.int32(23), np.int32(0x3F800000)

# exp(-a**2 / 2) = 2**k 2**r with |r| <= 0.5, and a minimax polynomial for 2**r by Lawson's algorithm, relative error
# 1.9e-9.
_MINUS_HALF_LOG2E = _f(-0.5 / math.log(2))
_Q1, _Q2, _Q3 = _f(6.9314720574e-01), _f(2.4022646891e-01), _f(5.5503287770e-02)
_Q4, _Q5, _Q6 = _f(9.6184889575e-03), _f(1.3399931219e-03), _f(1.5345811898e-04)
_LARGEST = _f(13.19)  # above this, it is subnormal in float32


def exp_nonpositive(x: Any) -> Any:
    """exp(x) for x <= 0; subnormal float32 results are flushed to 0."""
    raise NotImplementedError("only callable from Numba functions")


def exp_parts(x: Any) -> Any:
    """e and a power of two with exp(x) = (e + 1) * power, |e| < 0.42; for float32 x in [-87.33, 0], or NaN.

    Rounded for exp(x) beside 1: the error of e is up to 2e-9 times the exponent of the power.
    """
    raise NotImplementedError("only callable from Numba functions")


def exp_half_square(a: Any) -> Any:
    """exp(-a**2 / 2) for float32 a >= 0; subnormal results are flushed to 0. Of NaN, any number or NaN."""
    raise NotImplementedError("only callable from Numba functions")


@overload(exp_nonpositive, jit_options={"fastmath": {"contract"}})
def _exp_nonpositive(x):
    if x != numba.float32:
        return lambda x: math.exp(x)

    def single(x):
        clamped = _LOWEST if x < _LOWEST else x
        shifted = clamped * _LOG2E + _ROUND  # no conversion to an integer, which of NaN would be undefined
        k = shifted - _ROUND
        r = (clamped - k * _LN2_HIGH) - k * _LN2_LOW
        p = ((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2
        power = np.int32((np.float32(shifted).view(np.int32) << _MANTISSA) + _ONE_BITS).view(np.float32)
        return _ZERO if x < _LOWEST else (p * r * r + r + _ONE) * power

    return single


@overload(exp_parts, jit_options={"fastmath": {"contract"}})
def _exp_parts(x):
    def single(x):
        shifted = x * _LOG2E + _ROUND
        k = shifted - _ROUND
        r = x - k * _LN2
        p = (((_M6 * r + _M5) * r + _M4) * r + _M3) * r + _M2
        power = np.int32((np.float32(shifted).view(np.int32) << _MANTISSA) + _ONE_BITS).view(np.float32)
        return p * r * r + r, power

    return single


@overload(exp_half_square, jit_options={"fastmath": {"contract"}})
def _exp_half_square(a):
    def single(a):
        clamped = _LARGEST if a > _LARGEST else a
        exponent = clamped * clamped * _MINUS_HALF_LOG2E
        shifted = exponent + _ROUND
        r = exponent - (shifted - _ROUND)
        q = (((((_Q6 * r + _Q5) * r + _Q4) * r + _Q3) * r + _Q2) * r + _Q1) * r + _ONE
        # Times 2**k, by adding k to the exponent's bits.
        bits = np.int32(np.float32(q).view(np.int32) + (np.float32(shifted).view(np.int32) << _MANTISSA))
        return _ZERO if a > _LARGEST else bits.view(np.float32)

    return single
