"""Dropout (Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014) in the
inverted form: kept elements are scaled up in training, so that inference is the identity."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.checks import check_float, check_int, check_number, check_shape
from gpunet.errors import DTypeError
from gpunet.ops import random
from gpunet.ops._dispatch import implementation


def dropout(
    x: Array, p: float, *, seed: int, step: int | Array, stream: int, first_element: int = 0
) -> tuple[Array, Array]:
    """Zero each element with probability `p`, and divide the others by 1 - p.

    Element i (in C order, from `first_element` on) uses word i % 4 of counter i // 4 of (seed, stream, step), see
    :mod:`gpunet.ops.random`; it is kept if that word is at least floor(p * 2**32). Dropping a NaN or infinity gives
    NaN, as in PyTorch.

    Args:
        x: any shape, float32 or float64.
        p: probability of dropping an element, in [0, 1).
        seed: in [0, 2**64).
        step: in [0, 2**32), or a one-element integer array on the device of `x`, read modulo 2**32 at run time.
        stream: in [0, 2**32): ``random.DROPOUT`` + index of the layer.
        first_element: number of the first element of `x` in the array that it is a part of, from 0.

    Returns:
        (y, mask): y has the shape and dtype of `x`; mask has its shape, uint8, 1 where an element was kept, 0 where it
        was dropped.

    Raises:
        DTypeError: `x` is not float32 or float64, or `step` is not an integer array.
        ShapeError: `step` is an array with more than one element.
        ConfigError: `p`, `seed`, `step`, `stream` or `first_element` is out of range.
        DeviceError: `x` and `step` are on different devices.

    >>> x = np.ones(8, np.float32)
    >>> y, mask = gn.ops.dropout(x, 0.5, seed=0, step=0, stream=gn.ops.random.DROPOUT)
    >>> bool((y == 2 * mask).all())
    True
    """
    check_float(x=x)
    p = check_number("p", p, low=0, high=1, high_open=True)
    seed, stream = random.check_seed(seed), random.check_word("stream", stream)
    step = random.check_scalar("step", step)
    first = check_int("first_element", first_element, high=2**62)
    module = implementation(__name__, x, None if isinstance(step, int) else step)
    y, mask = module.dropout(x, p, seed=seed, step=step, stream=stream, first_element=first)
    return y, mask


def dropout_backward(dy: Array, mask: Array, p: float) -> Array:
    """The gradient of `x`: dy / (1 - p) where the element was kept, zero where it was dropped.

    Args:
        dy: the gradient of y, float32 or float64.
        mask: the shape of `dy`, uint8, as returned by :func:`dropout`.
        p: as in :func:`dropout`.

    Returns:
        dx, with the shape and dtype of `dy`.

    Raises:
        DTypeError: `dy` is not float32 or float64, or `mask` is not uint8.
        ShapeError: the shapes differ.
        ConfigError: `p` is not in [0, 1).
        DeviceError: the arrays are on different devices.

    >>> gn.ops.dropout_backward(np.float32([3, 3]), np.uint8([1, 0]), 0.5)
    array([6., 0.], dtype=float32)
    """
    check_float(dy=dy)
    check_shape("mask", mask, dy.shape)
    if mask.dtype != "uint8":
        raise DTypeError(f"mask must be uint8, as dropout returns it, got {mask.dtype}")
    p = check_number("p", p, low=0, high=1, high_open=True)
    return implementation(__name__, dy, mask).dropout_backward(dy, mask, p)
