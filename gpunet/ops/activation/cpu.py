"""Activation functions on the CPU: a vectorised loop for each, run in parallel over chunks of the flat array.

In float32 they are memory-bound, with one read of each input and one write of the output: exp, tanh and the normal
distribution are branch-free polynomials that LLVM vectorises, 10 to 20 times faster than a C library call per element.
In float64, which is meant for gradient checks, they are the C library's.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba.extending import overload

from gpunet import aligned
from gpunet.aligned import contiguous
from gpunet.ops._elementwise import Operands, elementwise, is_streamed
from gpunet.ops._exp import exp_half_square, exp_nonpositive, exp_parts
from gpunet.ops._numba import jit, numba, prange

_CHUNK = 16384  # elements that one thread computes in about the time in which another wakes up

_FLAGS = {"contract"}  # fused multiply-adds only: NaN and infinity are handled as in IEEE 754
_piece: Any = functools.partial(jit, fastmath=_FLAGS, inline="always")  # see gpunet.ops._numba.jit
_chunked: Any = functools.partial(jit, fastmath=_FLAGS)

_TANH_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_NORMAL = 1 / math.sqrt(2 * math.pi)

_f = np.float32
_ONE = _f(1)

_SATURATED = _f(9.02)  # from here on, tanh is 1 in float32

# erfcx(a / sqrt(2)) / 2 for a in [0, 13.2] as a polynomial in t = (a - 3.4) / (a + 3.4), the transformation of Shepherd
# & Laframboise, Math. Comp. 36 (1981); minimax coefficients by Lawson's algorithm, relative error 3.2e-8.
_SHIFT, _TWO_SHIFTS = _f(3.4), _f(6.8)
_P0, _P1, _P2 = _f(1.09083945e-01), _f(-1.90786624e-01), _f(1.25740315e-01)
_P3, _P4, _P5 = _f(-5.90249275e-02), _f(1.65119780e-02), _f(-3.94689906e-04)
_P6, _P7, _P8 = _f(-1.48149452e-03), _f(2.16277713e-04), _f(1.55293156e-04)

_SQRT_HALF = math.sqrt(0.5)


def normal_tail(a: Any) -> Any:
    """For a >= 0: the upper tail probability of the standard normal distribution, and exp(-a**2 / 2)."""
    raise NotImplementedError("only callable from Numba functions")


def scalar_tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    raise NotImplementedError("only callable from Numba functions")


@overload(normal_tail, jit_options={"fastmath": _FLAGS})
def _normal_tail(a):
    if a != numba.float32:
        return lambda a: (0.5 * math.erfc(a * _SQRT_HALF), math.exp(-0.5 * a * a))

    def single(a):
        e = exp_half_square(a)
        t = _ONE - _TWO_SHIFTS / (a + _SHIFT)
        p = (((_P8 * t + _P7) * t + _P6) * t + _P5) * t + _P4
        return ((((p * t + _P3) * t + _P2) * t + _P1) * t + _P0) * e, e

    return single


@overload(scalar_tanh, jit_options={"fastmath": _FLAGS})
def _scalar_tanh(x):
    if x != numba.float32:
        return lambda x: math.tanh(x)

    def single(x):
        # -expm1(-2 |x|) / (exp(-2 |x|) + 1), with the digits that expm1 has near zero. NaN stays NaN.
        a = abs(x)
        a = _SATURATED if a > _SATURATED else a
        e, power = exp_parts(-(a + a))
        return math.copysign((e * power + (power - _ONE)) / (e * power + (power + _ONE)), x)

    return single


def _where_positive(of: Operands) -> Any:
    """a, but 0 where b is not positive. NaN counts as positive."""
    zero = of.code.constant(0)
    return of.builder.select(of.builder.fcmp_ordered("<=", of.b, zero), zero, of.a)


def _scaled_unless_positive(of: Operands) -> Any:
    """a, times the first factor where b is not positive."""
    is_positive = of.builder.fcmp_ordered(">", of.b, of.code.constant(0))
    return of.builder.select(is_positive, of.a, of.builder.fmul(of.constant(0), of.a))


def _positive(of: Operands) -> Any:
    """b, but 0 where it is not positive. NaN counts as positive."""
    zero = of.code.constant(0)
    return of.builder.select(of.builder.fcmp_ordered("<=", of.b, zero), zero, of.b)


def _times_slope_of_tanh(of: Operands) -> Any:
    """a (1 - b^2)."""
    return of.builder.fmul(of.a, of.builder.fsub(of.code.constant(1), of.builder.fmul(of.b, of.b)))


_relu_vectors, _relu_gradients = elementwise(_positive), elementwise(_where_positive)
_leaky_relu_vectors, _tanh_gradients = elementwise(_scaled_unless_positive), elementwise(_times_slope_of_tanh)


@jit
def _relu(out, x):
    streamed = is_streamed(out, _CHUNK)
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        count = min(_CHUNK, out.size - start)
        _relu_vectors(x, x, x, out, start, 1, count, streamed and count == _CHUNK)


@jit
def _relu_backward(out, dy, x):
    streamed = is_streamed(out, _CHUNK)
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        count = min(_CHUNK, out.size - start)
        _relu_gradients(dy, x, x, out, start, 1, count, streamed and count == _CHUNK)


@jit
def _leaky_relu(out, dy, x, slope):
    streamed = is_streamed(out, _CHUNK)
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        count = min(_CHUNK, out.size - start)
        _leaky_relu_vectors(dy, x, slope, out, start, 1, count, streamed and count == _CHUNK)


@_piece
def _tanh_piece(out, x):
    for i in range(x.size):
        out[i] = scalar_tanh(x[i])


@_chunked
def _tanh(out, x):
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _tanh_piece(out[part], x[part])


@jit
def _tanh_backward(out, dy, y):
    streamed = is_streamed(out, _CHUNK)
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        count = min(_CHUNK, out.size - start)
        _tanh_gradients(dy, y, y, out, start, 1, count, streamed and count == _CHUNK)


@_piece
def _gelu_piece(out, x):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.size):
        tail, _ = normal_tail(abs(x[i]))
        out[i] = x[i] * (tail if x[i] < zero else one - tail)


@_chunked
def _gelu(out, x):
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _gelu_piece(out[part], x[part])


@_piece
def _gelu_backward_piece(out, dy, x):
    zero, one, normal = x.dtype.type(0), x.dtype.type(1), x.dtype.type(_NORMAL)
    for i in range(x.size):
        tail, density = normal_tail(abs(x[i]))
        out[i] = dy[i] * ((tail if x[i] < zero else one - tail) + x[i] * (density * normal))


@_chunked
def _gelu_backward(out, dy, x):
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _gelu_backward_piece(out[part], dy[part], x[part])


@_piece
def _gelu_tanh_piece(out, x):
    # 0.5 (1 + tanh(u)) is the logistic function of v = 2 u, computed from exp(-|v|), which cannot overflow.
    zero, one = x.dtype.type(0), x.dtype.type(1)
    scale, cubic = x.dtype.type(2 * _TANH_SCALE), x.dtype.type(_CUBIC)
    for i in range(x.size):
        v = scale * x[i] * (one + cubic * x[i] * x[i])
        e = exp_nonpositive(-abs(v))
        out[i] = x[i] * (e if v < zero else one) / (one + e)


@_chunked
def _gelu_tanh(out, x):
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _gelu_tanh_piece(out[part], x[part])


@_piece
def _gelu_tanh_backward_piece(out, dy, x):
    zero, one, three = x.dtype.type(0), x.dtype.type(1), x.dtype.type(3)
    scale, cubic = x.dtype.type(2 * _TANH_SCALE), x.dtype.type(_CUBIC)
    for i in range(x.size):
        square = cubic * x[i] * x[i]
        v = scale * x[i] * (one + square)
        e = exp_nonpositive(-abs(v))
        q = one / (one + e)
        logistic = e * q if v < zero else q
        out[i] = dy[i] * (logistic + x[i] * (e * q * q) * scale * (one + three * square))


@_chunked
def _gelu_tanh_backward(out, dy, x):
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _gelu_tanh_backward_piece(out[part], dy[part], x[part])


_as_contiguous = np.ascontiguousarray  # to ask it takes a fifth of the time of asking for an array's flags


def _of(kernel: Any, x: np.ndarray) -> np.ndarray:
    y = aligned.empty_like(x)
    kernel(y.ravel(), x.ravel() if _as_contiguous(x) is x else contiguous(x).ravel())
    return y


def _of_both(kernel: Any, dy: np.ndarray, x: np.ndarray, *scalars: Any) -> np.ndarray:
    dx, flat = aligned.empty_like(x), x.ravel() if _as_contiguous(x) is x else contiguous(x).ravel()
    if dy is x:
        kernel(dx.ravel(), flat, flat, *scalars)
    else:
        kernel(dx.ravel(), dy.ravel() if _as_contiguous(dy) is dy else contiguous(dy).ravel(), flat, *scalars)
    return dx


@functools.lru_cache(maxsize=64)
def _factor(slope: float, dtype: np.dtype) -> np.ndarray:
    return np.array([slope], dtype)


def relu(x: np.ndarray) -> np.ndarray:
    return _of(_relu, x)


def relu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _of_both(_relu_backward, dy, x)


def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    return _of_both(_leaky_relu, x, x, _factor(slope, x.dtype))


def leaky_relu_backward(dy: np.ndarray, x: np.ndarray, slope: float) -> np.ndarray:
    return _of_both(_leaky_relu, dy, x, _factor(slope, x.dtype))


def tanh(x: np.ndarray) -> np.ndarray:
    return _of(_tanh, x)


def tanh_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _of_both(_tanh_backward, dy, y)


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    return _of(_gelu if approximate == "none" else _gelu_tanh, x)


def gelu_backward(dy: np.ndarray, x: np.ndarray, approximate: str) -> np.ndarray:
    return _of_both(_gelu_backward if approximate == "none" else _gelu_tanh_backward, dy, x)
