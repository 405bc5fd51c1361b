"""Optimiser updates on the CPU: one parallel, vectorised pass over the flat buffers.

Memory-bound. Bytes moved per parameter in float32: SGD 12, with momentum 20, Adam 28, average 12, norm 4.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpunet.ops._numba import jit, prange
from gpunet.recording import repeated, run

_CHUNK = 8192  # elements per chunk: a few microseconds of work, so that two threads share a small model evenly

_FLAGS = {"contract"}  # fused multiply-adds only
_update: Any = functools.partial(jit, fastmath=_FLAGS)
_piece: Any = functools.partial(jit, fastmath=_FLAGS, inline="always")  # see gpunet.ops._numba.jit


@_update(fastmath={"contract", "reassoc"})
def _sums_of_squares(x, partial):
    # "reassoc" allows summation in vector lanes; non-finite values stay non-finite, as nothing is subtracted.
    for chunk in prange(partial.size):
        total = 0.0
        piece = x[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        for i in range(piece.size):
            value = np.float64(piece[i])
            total += value * value
        partial[chunk] = total


# Chunks are passed on as slices: their loops start at 0, which avoids the test for negative indices that would keep
# LLVM from vectorising. Weight decay applies to a prefix, so a chunk is processed in two parts, inside and after it.


@_piece
def _sgd_piece(p, g, scale, decay, lr):
    for i in range(p.size):
        p[i] -= lr * (scale * g[i] + decay * p[i])


@_piece
def _sgd_chunk(params, grads, decay_size, start, scale, decay, lr):
    stop = min(params.size, start + _CHUNK)
    middle = min(max(start, decay_size), stop)
    for part, rate in ((slice(start, middle), decay), (slice(middle, stop), params.dtype.type(0))):
        _sgd_piece(params[part], grads[part], scale, rate, lr)


@_update
def _sgd(params, grads, decay_size, scale, decay, lr):
    for chunk in prange((params.size + _CHUNK - 1) // _CHUNK):
        _sgd_chunk(params, grads, decay_size, chunk * _CHUNK, scale, decay, lr)


# Where gradients are 0, as those of a unit that is never active, moments fade until they are subnormal, and would stay
# so for ever. Arithmetic with them is a hundred times slower, and they are too small to move a weight: they become 0.
_TINY, _TINY_DOUBLE = np.finfo(np.float32).tiny, np.finfo(np.float64).tiny


@_piece
def _momentum_piece(p, g, velocity, scale, decay, lr, momentum, nesterov):
    tiny, zero = p.dtype.type(_TINY if p.itemsize == 4 else _TINY_DOUBLE), p.dtype.type(0)
    for i in range(p.size):
        gradient = scale * g[i] + decay * p[i]
        v = momentum * velocity[i] + gradient
        v = zero if abs(v) < tiny else v
        velocity[i] = v
        p[i] -= lr * (gradient + momentum * v if nesterov else v)


@_piece
def _momentum_chunk(params, grads, velocity, decay_size, start, scale, decay, lr, momentum, nesterov):
    stop = min(params.size, start + _CHUNK)
    middle = min(max(start, decay_size), stop)
    for part, rate in ((slice(start, middle), decay), (slice(middle, stop), params.dtype.type(0))):
        _momentum_piece(params[part], grads[part], velocity[part], scale, rate, lr, momentum, nesterov)


@_update
def _momentum(params, grads, velocity, decay_size, scale, decay, lr, momentum, nesterov):
    for chunk in prange((params.size + _CHUNK - 1) // _CHUNK):
        _momentum_chunk(params, grads, velocity, decay_size, chunk * _CHUNK, scale, decay, lr, momentum, nesterov)


@jit
def _all_zero(x):
    for start in range(0, x.size, 256):
        piece, others = x[start : start + 256], 0
        for i in range(piece.size):
            others += piece[i] != 0
        if others > 0:
            return False
    return True


@_piece
def _adam_piece(p, g, moment1, moment2, decay, keep, constants):
    scale, beta1, rest1, beta2, rest2, root, eps, rate = constants
    tiny, zero = p.dtype.type(_TINY if p.itemsize == 4 else _TINY_DOUBLE), p.dtype.type(0)
    for i in range(p.size):
        gradient = scale * g[i] + decay * p[i]
        m = beta1 * moment1[i] + rest1 * gradient
        v = beta2 * moment2[i] + rest2 * (gradient * gradient)
        m, v = zero if abs(m) < tiny else m, zero if v < tiny else v
        moment1[i] = m
        moment2[i] = v
        p[i] = keep * p[i] - rate * (m / (np.sqrt(v) * root + eps))


@_piece
def _adam_chunk(params, grads, moment1, moment2, decay_size, start, decay, keep, constants):
    zero, one = params.dtype.type(0), params.dtype.type(1)
    stop = min(params.size, start + _CHUNK)
    middle = min(max(start, decay_size), stop)
    for part, l2, factor in ((slice(start, middle), decay, keep), (slice(middle, stop), zero, one)):
        g, m, v = grads[part], moment1[part], moment2[part]
        # A tap that only ever reads padding never has a gradient: with nothing to move, nothing is written, nor p read.
        still = l2 == zero and factor == one and constants[6] > zero
        if not (still and _all_zero(g) and _all_zero(m) and _all_zero(v)):
            _adam_piece(params[part], g, m, v, l2, factor, constants)


@_update
def _adam(params, grads, moment1, moment2, decay_size, decay, keep, constants):
    for chunk in prange((params.size + _CHUNK - 1) // _CHUNK):
        _adam_chunk(params, grads, moment1, moment2, decay_size, chunk * _CHUNK, decay, keep, constants)


@_piece
def _ema_piece(average, values, decay, rest):
    # The smaller factor multiplies the difference (as in torch.lerp): decay 0 gives `values` and 1 `average`, exactly.
    for i in range(average.size):
        old, new = average[i], values[i]
        average[i] = old + rest * (new - old) if rest < decay else new - decay * (new - old)


@_update
def _ema(average, values, decay, rest):
    for chunk in prange((average.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        _ema_piece(average[part], values[part], decay, rest)


def _number(value: Any) -> float:
    return float(value.item()) if isinstance(value, np.ndarray) else float(value)


def _finite_scale(scale: Any) -> float | None:
    number = 1.0 if scale is None else _number(scale)
    return number if math.isfinite(number) else None


def gradient_scale(grads: np.ndarray, loss: np.ndarray, max_norm: float) -> tuple[np.ndarray, np.ndarray]:
    scale, norm = np.empty((), grads.dtype), np.empty((), grads.dtype)
    run(_scale_and_norm, grads, loss, max_norm, scale, norm)
    return scale, norm


def _scale_and_norm(grads: np.ndarray, loss: np.ndarray, max_norm: float, scale: np.ndarray, norm: np.ndarray) -> None:
    factor, total = 1.0, 0.0
    if max_norm:
        partial = np.zeros(-(-grads.size // _CHUNK))  # finite even in a rehearsal, see gpunet.ops._compile_together
        _sums_of_squares(np.ascontiguousarray(grads), partial)
        total = math.sqrt(math.fsum(partial)) if np.isfinite(partial).all() else math.nan
        factor = min(1.0, max_norm / (total + 1e-6))
    with np.errstate(over="ignore"):
        norm[...] = total
    scale[...] = factor if math.isfinite(_number(loss)) and math.isfinite(_number(norm)) else math.nan


@repeated
def sgd_update(
    params: np.ndarray,
    grads: np.ndarray,
    velocity: np.ndarray | None,
    lr: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay_size: int,
    scale: Any,
) -> None:
    factor, real = _finite_scale(scale), params.dtype.type
    if factor is None:
        return
    grads = np.ascontiguousarray(grads)
    numbers = real(factor), real(weight_decay), real(_number(lr))
    if momentum:
        _momentum(params, grads, velocity, decay_size, *numbers, real(momentum), nesterov)
    else:
        _sgd(params, grads, decay_size, *numbers)


@repeated
def adam_update(
    params: np.ndarray,
    grads: np.ndarray,
    moment1: np.ndarray,
    moment2: np.ndarray,
    lr: Any,
    step: Any,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    decay_size: int,
    scale: Any,
) -> None:
    factor, real = _finite_scale(scale), params.dtype.type
    if factor is None:
        return
    rate, t = _number(lr), _number(step)
    # Everything that is the same for all elements is computed once in float64: 1 - 0.999 would lose digits in float32.
    constants = (
        factor,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        1 / math.sqrt(1 - beta2**t),
        eps,
        rate / (1 - beta1**t),
    )
    coupled, keep = (0.0, 1 - rate * weight_decay) if decoupled else (weight_decay, 1.0)
    _adam(
        params,
        np.ascontiguousarray(grads),
        moment1,
        moment2,
        decay_size,
        real(coupled),
        real(keep),
        tuple(real(constant) for constant in constants),
    )


@repeated
def ema_update(average: np.ndarray, values: np.ndarray, decay: float, step: Any) -> None:
    if step is not None:
        t = _number(step)
        decay = min(decay, (1 + t) / (10 + t))
    real = average.dtype.type
    _ema(average, np.ascontiguousarray(values), real(decay), real(1 - decay))
