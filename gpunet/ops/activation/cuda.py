"""Activation functions on the GPU: one launch each of ``kernels/activation.cu``."""

from __future__ import annotations

from typing import Any

from gpunet import cuda
from gpunet.backend import Array

_THREADS = 256


def _forward(kernel: str, x: Array, *numbers: Any) -> Array:
    x = cuda.contiguous(x)
    y = cuda.empty_like(x)
    grid = cuda.ceil_div(x.size, _THREADS)
    cuda.launch("activation", kernel, grid, _THREADS, x, y, *numbers, x.size, real=x.dtype)
    return y


def _backward(kernel: str, dy: Array, x: Array, *numbers: Any) -> Array:
    dy, x = cuda.contiguous(dy), cuda.contiguous(x)
    dx = cuda.empty_like(x)
    grid = cuda.ceil_div(x.size, _THREADS)
    cuda.launch("activation", kernel, grid, _THREADS, dy, x, dx, *numbers, x.size, real=x.dtype)
    return dx


def relu(x: Array) -> Array:
    return _forward("relu", x)


def relu_backward(dy: Array, x: Array) -> Array:
    return _backward("relu_backward", dy, x)


def leaky_relu(x: Array, slope: float) -> Array:
    return _forward("leaky_relu", x, slope)


def leaky_relu_backward(dy: Array, x: Array, slope: float) -> Array:
    return _backward("leaky_relu_backward", dy, x, slope)


def tanh(x: Array) -> Array:
    return _forward("tanh_forward", x)


def tanh_backward(dy: Array, y: Array) -> Array:
    return _backward("tanh_backward", dy, y)


def gelu(x: Array, approximate: str) -> Array:
    return _forward("gelu_tanh" if approximate == "tanh" else "gelu", x)


def gelu_backward(dy: Array, x: Array, approximate: str) -> Array:
    return _backward("gelu_tanh_backward" if approximate == "tanh" else "gelu_backward", dy, x)
