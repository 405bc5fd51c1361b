"""Gradients of parameters can be written where the caller wants them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpunet.errors import DeviceError, DTypeError, ShapeError
from gpunet.ops.batchnorm import BatchNormSaved

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


X, WEIGHT, DY = normal(6, 5), normal(5, 3), normal(6, 3)
IMAGES, KERNEL, DMAPS = normal(2, 4, 4, 5), normal(3, 3, 5, 3), normal(2, 4, 4, 3)
SAVED = BatchNormSaved(np.zeros(5), np.ones(5), True)

# package; its backward; shapes of the two gradients
CASES: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (lambda module, **out: module.linear_backward(DY, X, WEIGHT, **out), (5, 3), (3,)),
    "conv2d": (
        lambda module, **out: module.conv2d_backward(DMAPS, IMAGES, KERNEL, padding=1, **out),
        (3, 3, 5, 3),
        (3,),
    ),
    "batchnorm": (lambda module, **out: module.batch_norm_backward(IMAGES * 2, IMAGES, X[0], SAVED, **out), (5,), (5,)),
}


@pytest.mark.parametrize("reference", [False, True], ids=["cpu", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_written_into_out(name: str, reference: bool) -> None:
    backward, first_shape, second_shape = CASES[name]
    module = importlib.import_module(f"gpunet.ops.{name}{'.reference' if reference else ''}")
    _, first, second = backward(module)
    into = np.full(first_shape, np.nan, np.float32), np.full(second_shape, np.nan, np.float32)
    dx, *given = backward(module, out=into)
    assert given[0] is into[0] and given[1] is into[1] and np.isfinite(dx).all()
    np.testing.assert_array_equal(into[0], first)
    np.testing.assert_array_equal(into[1], second)
    only_second = np.empty(second_shape, np.float32)
    _, new, given_second = backward(module, out=(None, only_second))
    assert given_second is only_second
    np.testing.assert_array_equal(new, first)


@pytest.mark.parametrize("name", CASES)
def test_an_out_that_does_not_fit(name: str) -> None:
    backward, first, second = CASES[name]
    package = importlib.import_module(f"gpunet.ops.{name}")
    good = np.empty(first, np.float32)
    with pytest.raises(ShapeError, match=r"out's d\w+ must have shape"):
        backward(package, out=(np.empty((9, *first), np.float32), None))
    with pytest.raises(DTypeError, match=r"out's d\w+ must be float32, got float64"):
        backward(package, out=(None, np.empty(second)))
    with pytest.raises(ShapeError, match=r"must be C-contiguous and writeable"):
        backward(package, out=(None, np.empty((*second, 2), np.float32)[..., 0]))
    with pytest.raises(ShapeError, match="out must have 2 entries"):
        backward(package, out=(good,))
    with pytest.raises((DeviceError, DTypeError)):
        backward(package, out=(good.tolist(), None))
