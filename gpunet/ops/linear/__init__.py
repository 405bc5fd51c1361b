"""The linear (dense, fully connected) op."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpunet.backend import Array
from gpunet.checks import check_float, check_needs, check_out, check_rank, check_shape
from gpunet.errors import ShapeError
from gpunet.ops._dispatch import implementation, ready_on_cpu
from gpunet.ops._empty import no_rows, no_sum

NEEDS = ("x", "weight", "bias")
_NEW = (None, None)
_NUMPYS = np.ndarray


def _check(x: Array, weight: Array) -> None:
    check_rank("weight", weight, 2, "(in, out)")
    if 0 in weight.shape:
        raise ShapeError(f"weight must have inputs and outputs, got shape {tuple(weight.shape)}")
    if x.ndim < 1 or x.shape[-1] != weight.shape[0]:
        raise ShapeError(
            f"the last axis of x must have the {weight.shape[0]} inputs of weight {tuple(weight.shape)}, "
            f"got x {tuple(x.shape)}"
        )


def linear(x: Array, weight: Array, bias: Array | None = None, *, relu: bool = False) -> Array:
    """``y = x @ weight + bias``, or with `relu` ``y = max(x @ weight + bias, 0)``.

    Args:
        x: (..., in), float32 or float64.
        weight: (in, out), dtype of `x`.
        bias: (out,) or None.
        relu: apply :func:`gpunet.ops.relu`, fused into the product.

    Returns:
        y, (..., out), dtype of `x`.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays do not match.

    >>> x, weight = np.float32([[1, 2]]), np.float32([[1, -1], [0, 1]])
    >>> gn.ops.linear(x, weight, np.float32([10, -3]))
    array([[11., -2.]], dtype=float32)
    >>> gn.ops.linear(x, weight, np.float32([10, -3]), relu=True)
    array([[11.,  0.]], dtype=float32)
    """
    on_cpu = ready_on_cpu(__name__)
    if on_cpu is not None and type(x) is type(weight) is type(bias) is _NUMPYS:
        dtype = x.dtype
        fitting = dtype is weight.dtype is bias.dtype
        run = on_cpu.forward_of(x.shape, weight.shape, bias.shape, dtype, bool(relu)) if fitting else None
        if run is not None:
            y: Array = run(x, weight, bias)
            return y
    impl = implementation(__name__, x, weight, bias)
    _check(x, weight)
    check_float(x=x, weight=weight, bias=bias)
    if bias is not None:
        check_shape("bias", bias, weight.shape[1:])
    if not x.size:
        return no_rows((*x.shape[:-1], weight.shape[1]), x)
    return impl.linear(x, weight, bias, bool(relu))


def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    *,
    y: Array | None = None,
    needs: Sequence[str] = NEEDS,
    out: tuple[Array | None, Array | None] = _NEW,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`linear`.

    Args:
        dy: gradient of the output, (..., out).
        x, weight: as passed to the forward pass.
        y: the output of the forward pass if that was called with `relu`, shape and dtype of `dy`; else None.
        needs: the gradients to compute, out of ``"x"``, ``"weight"`` and ``"bias"``.
        out: C-contiguous arrays to write dweight and dbias to, which are then returned; None: new arrays.

    Returns:
        (dx, dweight, dbias), with the shapes of x, weight and (out,); None for those not in `needs`.

    Raises: as :func:`linear`.

    >>> x, weight = np.float32([[1, 2]]), np.float32([[1, -1], [0, 1]])
    >>> dx, dweight, dbias = gn.ops.linear_backward(np.float32([[1, 1]]), x, weight)
    >>> dx
    array([[0., 1.]], dtype=float32)
    >>> dweight
    array([[1., 1.],
           [2., 2.]], dtype=float32)
    """
    gradients: tuple[Array | None, Array | None, Array | None]
    run, on_cpu = None, ready_on_cpu(__name__)
    if on_cpu is not None and type(dy) is type(x) is type(weight) is _NUMPYS:
        dtype = x.dtype
        fitting = y is None or (type(y) is _NUMPYS and y.dtype is dtype and y.shape == dy.shape)
        if fitting and dy.dtype is dtype is weight.dtype:
            try:  # noqa: SIM105 - contextlib.suppress takes a microsecond
                run = on_cpu.backward_of(dy.shape, x.shape, weight.shape, dtype, needs)
            except TypeError:  # `needs` is a list, or something else that cannot be hashed
                pass
    if run is not None:
        if out is not _NEW:
            implementation(__name__, x, *out)  # which raises if they are on different devices
            check_out(out, ("dweight", weight.shape, x.dtype), ("dbias", weight.shape[1:], x.dtype))
        gradients = run(dy, x, weight, y, out)
        return gradients
    impl = implementation(__name__, dy, x, weight, y, *out)
    _check(x, weight)
    check_float(x=x, weight=weight, dy=dy, y=y)
    check_shape("dy", dy, (*x.shape[:-1], weight.shape[1]))
    if y is not None:
        check_shape("y", y, dy.shape)
    check_needs(needs, NEEDS)
    check_out(out, ("dweight", weight.shape, x.dtype), ("dbias", weight.shape[1:], x.dtype))
    if not x.size:
        return (
            no_rows(x.shape, x) if "x" in needs else None,
            no_sum(weight.shape, x, out[0]) if "weight" in needs else None,
            no_sum(weight.shape[1:], x, out[1]) if "bias" in needs else None,
        )
    gradients = impl.linear_backward(dy, x, weight, y, needs, out)
    return gradients
