"""Activations: reference against hand-computed values, differences and PyTorch; the CPU against the reference."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import activation
from gpunet.ops.activation import reference
from tests.ops.activations import OPS
from tests.support import check_gradient, torch_or_skip

EACH = pytest.mark.parametrize("name", OPS)


def assert_each_close(actual: np.ndarray, expected: np.ndarray, magnitude: np.ndarray, c: float = 4.0) -> None:
    """Every entry within c roundings of its `magnitude`, and NaN exactly where NaN is expected."""
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    known = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~known], expected[~known])
    tolerance = c * np.finfo(actual.dtype).eps * np.broadcast_to(magnitude, expected.shape)[known]
    error = np.abs(actual[known].astype(np.float64) - expected[known])
    assert (error <= tolerance).all(), f"{error.max()} at {actual[known][error.argmax()]}"


@st.composite
def inputs(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """dy and x of one shape and dtype: any rank, empty ones too, kinks among the values, slices of larger arrays."""
    shape = tuple(draw(st.lists(st.integers(0, 4) if draw(st.booleans()) else st.integers(1, 6), max_size=3)))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layout = draw(st.sampled_from(("contiguous", "slice", "transposed")))

    def array(scale: float) -> np.ndarray:
        if layout == "slice" and shape:
            whole = rng.standard_normal((*shape[:-1], 2 * shape[-1] + 1))[..., 1::2]
        elif layout == "transposed":
            whole = rng.standard_normal(shape[::-1]).T
        else:
            whole = rng.standard_normal(shape)
        out = np.asarray(whole * scale)
        if layout == "transposed":
            return out.astype(dtype, order="K")
        return out.astype(dtype)[...]

    x = array(draw(st.sampled_from((1e-3, 1.0, 5.0))))
    for value in draw(st.lists(st.sampled_from((0.0, -0.0, 0.625, -30.0, 30.0)), max_size=3)):
        if x.size:
            x.flat[rng.integers(x.size)] = value
    return array(1.0), x


# reference.py


def test_reference_hand_computed() -> None:
    x = np.array([-2.0, 0.0, 3.0])
    dy = np.array([5.0, 7.0, 11.0])
    np.testing.assert_array_equal(reference.relu(x), [0, 0, 3])
    np.testing.assert_array_equal(reference.relu_backward(dy, x), [0, 0, 11])
    np.testing.assert_array_equal(reference.leaky_relu(x, 0.5), [-1, 0, 3])
    np.testing.assert_array_equal(reference.leaky_relu_backward(dy, x, 0.5), [2.5, 3.5, 11])
    assert reference.leaky_relu(x)[0] == -0.02
    # tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 0.6, and its derivative 1 - 0.36
    np.testing.assert_allclose(reference.tanh(np.array([math.log(2)])), [0.6], rtol=1e-15)
    np.testing.assert_allclose(reference.tanh_backward(np.array([2.0]), np.array([0.6])), [1.28], rtol=1e-15)
    # Phi(1) = 0.8413447460685429 and phi(1) = 0.2419707245191434 (tables of the normal distribution)
    one = np.array([1.0, -1.0])
    np.testing.assert_allclose(reference.gelu(one), [0.8413447460685429, -0.1586552539314571], rtol=1e-14)
    np.testing.assert_allclose(
        reference.gelu_backward(np.ones(2), one),
        [0.8413447460685429 + 0.2419707245191434, 0.1586552539314571 - 0.2419707245191434],
        rtol=1e-14,
    )
    # sqrt(2/pi) * 1.044715 = 0.8335643; 0.5 * (1 + tanh(0.8335643)) = 0.8411920
    np.testing.assert_allclose(reference.gelu(one, "tanh"), [0.8411920, -0.1588080], atol=5e-8)


@EACH
def test_reference_gradient_by_differences(name: str) -> None:
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 4, 5)) * 2
    op = OPS[name]
    check_gradient(lambda x: op.forward(reference, x), op.backward(reference, dy, x), x, dy, rng)


@EACH
@settings(max_examples=200)
@given(data=inputs())
def test_reference_against_pytorch(name: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    torch, op = torch_or_skip(), OPS[name]
    dy, x = (np.ascontiguousarray(array).reshape(array.shape) for array in data)
    tensor = torch.tensor(x, requires_grad=True)
    y = op.torch(torch.nn.functional, tensor)
    y.backward(torch.tensor(dy))
    assert_each_close(op.forward(reference, x), y.detach().numpy(), np.maximum(1, np.abs(x)), c=8)
    # PyTorch's own float32 error of x * x**3 terms grows with |x|
    assert_each_close(op.backward(reference, dy, x), tensor.grad.numpy(), np.abs(dy) * np.maximum(1, np.abs(x)), c=8)


# cpu.py


@EACH
@settings(max_examples=200)
@given(data=inputs())
def test_cpu_against_reference(name: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    dy, x = data
    op, before = OPS[name], (dy.copy(), x.copy())
    y, dx = op.forward(activation, x), op.backward(activation, dy, x)
    assert_each_close(y, op.forward(reference, x), np.maximum(np.abs(x), 1e-30))
    assert_each_close(dx, op.backward(reference, dy, x), op.steepest * np.abs(dy))
    assert not np.shares_memory(y, x) and not np.shares_memory(dx, dy)
    np.testing.assert_array_equal(dy, before[0])
    np.testing.assert_array_equal(x, before[1])


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_chunks(name: str, dtype: Any) -> None:
    x = np.linspace(-9, 9, 3 * 16384 + 5).astype(dtype)
    dy = np.cos(x)
    op = OPS[name]
    y, dx = op.forward(activation, x), op.backward(activation, dy, x)
    assert_each_close(y, op.forward(reference, x), np.maximum(np.abs(x), 1e-30))
    assert_each_close(dx, op.backward(reference, dy, x), op.steepest * np.abs(dy))
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(op.forward(activation, x), y)
        np.testing.assert_array_equal(op.backward(activation, dy, x), dx)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_and_gelu_over_the_whole_range(dtype: Any) -> None:
    from scipy.special import erfc, expit

    magnitudes = np.concatenate([np.geomspace(1e-30, 1e30, 20_001), np.linspace(0, 13, 50_001)])
    x = np.concatenate([magnitudes, -magnitudes]).astype(dtype)
    exact = x.astype(np.float64)
    with np.errstate(under="ignore", over="ignore"):
        phi = 0.5 * erfc(-exact / math.sqrt(2))
        density = np.exp(-exact * exact / 2) / math.sqrt(2 * math.pi)
        logistic = expit(2 * math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3))
        expected = {
            "tanh": np.tanh(exact),
            "gelu": exact * phi,
            "gelu_backward": phi + exact * density,
            "gelu_tanh": exact * logistic,
        }
    actual = {
        "tanh": activation.tanh(x),
        "gelu": activation.gelu(x),
        "gelu_backward": activation.gelu_backward(np.ones_like(x), x),
        "gelu_tanh": activation.gelu(x, "tanh"),
    }
    size = {"tanh": np.abs(expected["tanh"]), "gelu_backward": np.ones(x.shape)}
    for name in expected:
        assert_each_close(actual[name], expected[name].astype(dtype), size.get(name, np.abs(exact)))
    # In the tail the rounding of the exponent x**2 / 2 counts, here and in SciPy; most formulas keep no digit there.
    tail = (exact < 0) & (exact > -12)
    relative = np.abs(actual["gelu"][tail] / expected["gelu"][tail] - 1)
    assert (relative <= np.finfo(dtype).eps * 2 * (4 + exact[tail] ** 2)).all()


@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_that_are_not_finite(name: str, dtype: str) -> None:
    op = OPS[name]
    x = np.array([np.nan, np.inf, -np.inf], dtype)
    expected = np.array([np.nan, *op.at_infinity], dtype)
    np.testing.assert_array_equal(op.forward(activation, x), expected)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(op.forward(reference, x), expected)
    dy = np.full(5, np.nan, dtype)
    assert np.isnan(op.backward(activation, dy, np.ones(5, dtype))).all()


@pytest.mark.parametrize("module", [reference, activation])
def test_gradients_at_the_kinks(module: Any) -> None:
    torch = torch_or_skip()
    x, dy = np.array([0.0, -0.0, np.nan], np.float32), np.array([2.0, 3.0, 5.0], np.float32)
    for ours, theirs in (
        (module.relu_backward(dy, x), torch.relu),
        (module.leaky_relu_backward(dy, x, 0.25), lambda t: torch.nn.functional.leaky_relu(t, 0.25)),
    ):
        tensor = torch.tensor(x, requires_grad=True)
        theirs(tensor).backward(torch.tensor(dy))
        np.testing.assert_array_equal(ours, tensor.grad.numpy())


def test_outputs_may_stand_in_for_inputs() -> None:
    x = np.array([-2.0, -0.0, 0.0, 3.0, np.nan])
    dy = np.arange(1.0, 6.0)
    np.testing.assert_array_equal(activation.relu_backward(dy, activation.relu(x)), [0, 0, 0, 4, 5])
    np.testing.assert_array_equal(
        activation.leaky_relu_backward(dy, activation.leaky_relu(x, 0.5), 0.5), [0.5, 1, 1.5, 4, 2.5]
    )


def test_bad_input() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(DTypeError, match=r"x must be float32 or float64, got int64; convert it"):
        activation.relu(np.zeros(3, np.int64))
    with pytest.raises(DTypeError, match=r"dy is float64 but x is float32"):
        activation.gelu_backward(np.zeros((2, 3)), x)
    with pytest.raises(ShapeError, match=r"dy must have shape \(2, 3\), got \(3, 2\)"):
        activation.tanh_backward(x.reshape(3, 2), x)
    with pytest.raises(ConfigError, match=r"slope must be a number .*got nan"):
        activation.leaky_relu(x, math.nan)
    with pytest.raises(ConfigError, match=r'approximate must be "none" or "tanh", got \'erf\''):
        activation.gelu(x, "erf")


def test_tanh_in_float32_is_within_two_units_in_the_last_place() -> None:
    """Against float64, from subnormal numbers to where tanh is 1, and with the sign of zero."""
    half = np.concatenate([np.geomspace(1e-37, 12, 200_001), np.linspace(1e-3, 10, 200_001)]).astype(np.float32)
    x = np.concatenate([half, -half])
    y, exact = activation.tanh(x), np.tanh(x.astype(np.float64))
    assert np.isfinite(y).all() and (np.abs(y) <= 1).all()
    assert (np.abs(y - exact) <= 2 * np.spacing(np.abs(exact).astype(np.float32))).all()
    zeros = activation.tanh(np.float32([0.0, -0.0]))
    assert not zeros.any() and np.signbit(zeros).tolist() == [False, True]
