"""Activation functions on the CPU: a vectorised loop for each, and the same over chunks of the flat array in parallel.

Memory-bound: one read of each input and one write of the output.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpunet.ops._numba import jit, parallel_jit, prange
from gpunet.ops.activation._math import exp_nonpositive, normal_tail
from gpunet.ops.activation._math import tanh as scalar_tanh

_CHUNK = 16384  # elements: less is done by one thread, as waking the others takes longer

_FLAGS = {"contract"}  # fused multiply-adds only: NaN and infinities keep their meaning
_piece: Any = functools.partial(jit, fastmath=_FLAGS)
_chunked: Any = functools.partial(parallel_jit, fastmath=_FLAGS)

_TANH_SCALE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_NORMAL = 1 / math.sqrt(2 * math.pi)


@_piece
def _relu_piece(out, x):
    zero = x.dtype.type(0)
    for i in range(x.size):
        out[i] = zero if x[i] <= zero else x[i]


@_chunked
def _relu(out, x):
    if out.size <= _CHUNK:
        _relu_piece(out, x)
        return
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _relu_piece(out[part], x[part])


@_piece
def _relu_backward_piece(out, dy, x):
    zero = x.dtype.type(0)
    for i in range(x.size):
        value = dy[i]  # loaded on both paths, which the loop needs to be vectorised
        out[i] = zero if x[i] <= zero else value


@_chunked
def _relu_backward(out, dy, x):
    if out.size <= _CHUNK:
        _relu_backward_piece(out, dy, x)
        return
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _relu_backward_piece(out[part], dy[part], x[part])


@_piece
def _leaky_relu_piece(out, dy, x, slope):
    zero = x.dtype.type(0)
    for i in range(x.size):
        value = dy[i]
        out[i] = value if x[i] > zero else slope * value


@_chunked
def _leaky_relu(out, dy, x, slope):
    if out.size <= _CHUNK:
        _leaky_relu_piece(out, dy, x, slope)
        return
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _leaky_relu_piece(out[part], dy[part], x[part], slope)


@_piece
def _tanh_piece(out, x):
    for i in range(x.size):
        out[i] = scalar_tanh(x[i])


@_chunked
def _tanh(out, x):
    if out.size <= _CHUNK:
        _tanh_piece(out, x)
        return
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _tanh_piece(out[part], x[part])


@_piece
def _tanh_backward_piece(out, dy, y):
    one = y.dtype.type(1)
    for i in range(y.size):
        out[i] = dy[i] * (one - y[i] * y[i])


@_chunked
def _tanh_backward(out, dy, y):
    if out.size <= _CHUNK:
        _tanh_backward_piece(out, dy, y)
        return
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _tanh_backward_piece(out[part], dy[part], y[part])


@_piece
def _gelu_piece(out, x):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.size):
        tail, _ = normal_tail(abs(x[i]))
        out[i] = x[i] * (tail if x[i] < zero else one - tail)


@_chunked
def _gelu(out, x):
    if out.size <= _CHUNK:
        _gelu_piece(out, x)
        return
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
    if out.size <= _CHUNK:
        _gelu_backward_piece(out, dy, x)
        return
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _gelu_backward_piece(out[part], dy[part], x[part])


@_piece
def _gelu_tanh_piece(out, x):
    # 0.5 (1 + tanh(u)) is the logistic function of v = 2 u, here from exp(-|v|), which cannot overflow.
    zero, one = x.dtype.type(0), x.dtype.type(1)
    scale, cubic = x.dtype.type(2 * _TANH_SCALE), x.dtype.type(_CUBIC)
    for i in range(x.size):
        v = scale * x[i] * (one + cubic * x[i] * x[i])
        e = exp_nonpositive(-abs(v))
        out[i] = x[i] * (e if v < zero else one) / (one + e)


@_chunked
def _gelu_tanh(out, x):
    if out.size <= _CHUNK:
        _gelu_tanh_piece(out, x)
        return
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
    if out.size <= _CHUNK:
        _gelu_tanh_backward_piece(out, dy, x)
        return
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _gelu_tanh_backward_piece(out[part], dy[part], x[part])


def _run(kernel: Any, *arrays: np.ndarray, scalars: tuple[Any, ...] = ()) -> np.ndarray:
    out = np.empty(arrays[0].shape, arrays[0].dtype)
    kernel(out.reshape(-1), *(np.ascontiguousarray(array).reshape(-1) for array in arrays), *scalars)
    return out


def relu(x: np.ndarray) -> np.ndarray:
    return _run(_relu, x)


def relu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    return _run(_relu_backward, dy, x)


def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    return _run(_leaky_relu, x, x, scalars=(x.dtype.type(slope),))


def leaky_relu_backward(dy: np.ndarray, x: np.ndarray, slope: float) -> np.ndarray:
    return _run(_leaky_relu, dy, x, scalars=(x.dtype.type(slope),))


def tanh(x: np.ndarray) -> np.ndarray:
    return _run(_tanh, x)


def tanh_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _run(_tanh_backward, dy, y)


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    return _run(_gelu if approximate == "none" else _gelu_tanh, x)


def gelu_backward(dy: np.ndarray, x: np.ndarray, approximate: str) -> np.ndarray:
    return _run(_gelu_backward if approximate == "none" else _gelu_tanh_backward, dy, x)
