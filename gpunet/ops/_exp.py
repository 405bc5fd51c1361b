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
_ZERO, _HALF, _ONE = _f(0), _f(0.5), _f(1)

# x = k ln 2 + r with ln 2 in two parts, and a polynomial for |r| <= ln 2 / 2.
_LOG2E, _LN2_HIGH, _LN2_LOW = _f(1.44269504088896341), _f(0.693359375), _f(-2.12194440e-4)
_E2, _E3, _E4 = _f(5.0000001201e-1), _f(1.6666665459e-1), _f(4.1665795894e-2)
_E5, _E6, _E7 = _f(8.3334519073e-3), _f(1.3981999507e-3), _f(1.9875691500e-4)
_LOWEST = _f(-87.33)  # below this, exp is subnormal in float32
_BIAS, _MANTISSA = np.int32(127), np.int32(23)


def exp_nonpositive(x: Any) -> Any:
    """exp(x) for x <= 0; subnormal float32 results are flushed to 0."""
    raise NotImplementedError("only callable from Numba functions")


@overload(exp_nonpositive, jit_options={"fastmath": {"contract"}})
def _exp_nonpositive(x):
    if x != numba.float32:
        return lambda x: math.exp(x)

    def single(x):
        # The exponent is taken from a clamped value, as converting NaN or infinity to an integer is undefined.
        k = np.floor((x if x > _LOWEST else _LOWEST) * _LOG2E + _HALF)
        r = (x - k * _LN2_HIGH) - k * _LN2_LOW
        p = ((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2
        power = np.int32((np.int32(k) + _BIAS) << _MANTISSA).view(np.float32)
        return _ZERO if x < _LOWEST else (p * r * r + r + _ONE) * power

    return single
