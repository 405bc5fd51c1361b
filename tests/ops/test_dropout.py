"""Dropout: the reference to hand-made words, PyTorch and finite differences; Numba to the reference, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet import backend
from gpunet.errors import ConfigError, DeviceError, DTypeError, ShapeError
from gpunet.ops import random
from gpunet.ops._numba import numba
from gpunet.ops.dropout import dropout, dropout_backward, reference
from tests.support import assert_close, check_gradient, torch_or_skip

KEY = {"seed": 2**40 + 3, "step": 5, "stream": random.DROPOUT + 1}


@st.composite
def configurations(draw):
    """An array, perhaps a slice of a larger one, and the arguments of a dropout."""
    shape = draw(st.lists(st.integers(1, 5), min_size=0, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.standard_normal([2 * size for size in shape]).astype(draw(st.sampled_from(["float32", "float64"])))
    every_second = draw(st.booleans())
    x = values[tuple(slice(None, None, 2) if every_second else slice(size) for size in shape)]
    p = draw(st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.5, 1 - 2.0**-53])))
    step = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        step = np.array([step], draw(st.sampled_from([np.int64, np.uint32])))
    key = {"seed": draw(st.integers(0, 2**64 - 1)), "step": step, "stream": draw(st.integers(0, 2**32 - 1))}
    if draw(st.booleans()):
        key["first_element"] = draw(st.one_of(st.integers(0, 9), st.integers(0, 2**40)))
    return np.asarray(x), p, key


@settings(max_examples=200)
@given(configurations())
def test_cpu_is_the_reference(configuration):
    x, p, key = configuration
    x_before = x.copy()
    y, mask = dropout(x, p, **key)
    expected, expected_mask = reference.dropout(x, p, **key)
    assert mask.dtype == np.uint8 and y.dtype == x.dtype and y.shape == x.shape
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_array_equal(y == 0, (expected_mask == 0) | (x == 0))
    assert_close(y, expected)
    dy = np.asarray(np.flip(y))  # a view with negative strides
    assert_close(dropout_backward(dy, mask, p), reference.dropout_backward(dy, mask, p))
    np.testing.assert_array_equal(x, x_before)


@settings(max_examples=200)
@given(configurations())
def test_reference_is_pytorch(configuration):
    torch = torch_or_skip()
    x, p, key = configuration
    y, mask = reference.dropout(x, p, **key)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = torch.where(torch.tensor(mask) == 1, x_torch / (1 - p), torch.zeros_like(x_torch))
    y_torch.backward(torch.tensor(y))
    assert_close(y, y_torch.detach().numpy())
    assert_close(reference.dropout_backward(y, mask, p), x_torch.grad.numpy())
    fused = torch.ops.aten.native_dropout_backward(torch.tensor(y), torch.tensor(mask) == 1, 1 / (1 - p))
    assert_close(reference.dropout_backward(y, mask, p), fused.numpy())


@pytest.mark.parametrize("implementation", [dropout, reference.dropout])
def test_hand_computed(implementation):
    # Random123's first vector, 6627e8d5 e169c58d bc57ac4c 9b00dbd8, read as fractions of 2**32 is
    # 0.399 0.881 0.736 0.605: at p = 0.7 the second and the third element are kept.
    x = np.array([[3.0, 6.0], [-9.0, 12.0]])
    y, mask = implementation(x, 0.7, seed=0, step=0, stream=0)
    assert mask.tolist() == [[0, 1], [1, 0]]
    assert_close(y, np.array([[0.0, 20.0], [-30.0, 0.0]]))


@pytest.mark.parametrize("backward", [dropout_backward, reference.dropout_backward])
def test_backward_hand_computed(backward):
    dx = backward(np.array([1.0, -2.0, 3.0]), np.array([1, 1, 0], np.uint8), 0.75)
    assert dx.tolist() == [4.0, -8.0, 0.0]


@pytest.mark.parametrize("implementation", [dropout, reference.dropout])
def test_threshold_is_floor_of_p(implementation):
    for i, word in enumerate((0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)):
        for p, kept in ((word, 1), (word + 0.5, 1), (word + 1, 0)):
            assert implementation(np.ones(4), p / 2**32, seed=0, step=0, stream=0)[1][i] == kept


def test_reference_gradient_is_finite_differences():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((4, 5)), rng.standard_normal((4, 5))
    mask = reference.dropout(x, 0.4, **KEY)[1]
    check_gradient(lambda v: reference.dropout(v, 0.4, **KEY)[0], reference.dropout_backward(dy, mask, 0.4), x, dy, rng)


@pytest.mark.parametrize("size", [8191, 8192, 8193, 70_001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pieces_join(size, dtype):
    # Larger than one piece of work; the words come from NumPy, which test_random holds to the reference.
    x = np.random.default_rng(1).standard_normal(size).astype(dtype)
    y, mask = dropout(x, 0.3, **KEY)
    words = random.PhiloxStream(KEY["seed"], KEY["stream"], KEY["step"]).bits(size)
    expected_mask = words >= math.floor(0.3 * 2**32)
    np.testing.assert_array_equal(mask, expected_mask)
    assert_close(y, np.where(expected_mask, x / dtype(0.7), 0))
    assert_close(dropout_backward(x, mask, 0.3), np.where(expected_mask, x / dtype(0.7), 0))


def test_any_number_of_threads_gives_the_same_bits():
    x = np.random.default_rng(2).standard_normal(100_003).astype(np.float32)
    y, mask = dropout(x, 0.5, **KEY)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        y_alone, mask_alone = dropout(x, 0.5, **KEY)
        dx_alone = dropout_backward(x, mask, 0.5)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(mask, mask_alone)
    np.testing.assert_array_equal(y, y_alone)
    np.testing.assert_array_equal(dropout_backward(x, mask, 0.5), dx_alone)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_of_dropped_elements(p):
    n = 200_000
    masks = [
        dropout(np.ones(n, np.float32), p, seed=0, step=step, stream=stream)[1].astype(np.float64)
        for step, stream in ((0, 16), (1, 16), (0, 17))
    ]
    sigma = math.sqrt(p * (1 - p) / n)
    for mask in masks:
        assert abs(mask.mean() - (1 - p)) < 5 * sigma
    for other in masks[1:]:  # steps and layers are independent: the covariance has deviation p (1 - p) / sqrt(n)
        assert abs(((masks[0] - (1 - p)) * (other - (1 - p))).mean()) < 5 * p * (1 - p) / math.sqrt(n)


def test_p_zero_is_the_identity():
    x = np.random.default_rng(3).standard_normal((3, 7)).astype(np.float32)
    y, mask = dropout(x, 0, **KEY)
    np.testing.assert_array_equal(y, x)
    assert mask.all()


def test_empty_array():
    y, mask = dropout(np.ones((0, 3), np.float32), 0.5, **KEY)
    assert y.shape == mask.shape == (0, 3)
    assert dropout_backward(y, mask, 0.5).shape == (0, 3)


def test_nan_stays_as_in_pytorch():
    y, mask = dropout(np.full(64, np.nan, np.float32), 0.5, **KEY)
    assert 0 < mask.sum() < 64
    assert np.isnan(y).all()
    assert np.isnan(dropout_backward(y, mask, 0.5)).all()
    torch = torch_or_skip()
    assert torch.nn.functional.dropout(torch.full((64,), math.nan), 0.5).isnan().all()


def test_a_step_array_is_read_when_it_runs():
    x, step = np.ones(50, np.float32), np.array([7], np.int64)
    first = dropout(x, 0.5, seed=1, step=step, stream=16)[1]
    step += 1
    second = dropout(x, 0.5, seed=1, step=step, stream=16)[1]
    np.testing.assert_array_equal(first, dropout(x, 0.5, seed=1, step=7, stream=16)[1])
    np.testing.assert_array_equal(second, dropout(x, 0.5, seed=1, step=8, stream=16)[1])
    assert (first != second).any()
    step[0] = 2**32 + 7  # modulo 2**32
    np.testing.assert_array_equal(first, dropout(x, 0.5, seed=1, step=step, stream=16)[1])


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ConfigError, r"p must be in \[0, 1\), got 1", {"p": 1}),
        (ConfigError, r"p must be in \[0, 1\), got -0.1", {"p": -0.1}),
        (ConfigError, r"p must be a number in \[0, 1\), got nan", {"p": math.nan}),
        (ConfigError, "seed must be between 0 and", {"seed": -1}),
        (ConfigError, "stream must be between 0 and", {"stream": 2**32}),
        (ConfigError, "step must be between 0 and", {"step": 2**32}),
        (ShapeError, r"step must be an integer or a one-element array, got shape \(2,\)", {"step": np.arange(2)}),
        (DTypeError, "step must be an integer, got an array of float32", {"step": np.ones(1, np.float32)}),
        (DTypeError, "x must be float32 or float64, got int64", {"x": np.ones(3, np.int64)}),
    ],
)
def test_bad_arguments_are_refused(error, message, change):
    with pytest.raises(error, match=message):
        dropout(**{"x": X, "p": 0.5, **KEY, **change})


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (DTypeError, "dy must be float32 or float64, got int64", {"dy": np.ones((2, 3), np.int64)}),
        (DTypeError, "mask must be uint8, as dropout returns it, got bool", {"mask": np.ones((2, 3), bool)}),
        (ShapeError, r"mask must have shape \(2, 3\), got \(3, 2\)", {"mask": np.ones((3, 2), np.uint8)}),
        (ConfigError, r"p must be in \[0, 1\), got 2", {"p": 2}),
    ],
)
def test_bad_arguments_of_backward_are_refused(error, message, change):
    with pytest.raises(error, match=message):
        dropout_backward(**{"dy": X, "mask": np.ones((2, 3), np.uint8), "p": 0.5, **change})


def test_two_devices_are_refused(monkeypatch):
    class Elsewhere(np.ndarray):
        pass

    other = backend.CpuBackend()
    other.device = "elsewhere"
    monkeypatch.setitem(backend._array_types, Elsewhere, lambda array: other)
    with pytest.raises(DeviceError, match="cpu and elsewhere"):
        dropout(X, 0.5, seed=0, step=np.ones(1, np.int64).view(Elsewhere), stream=16)
    with pytest.raises(DeviceError, match="cpu and elsewhere"):
        dropout_backward(X, np.ones((2, 3), np.uint8).view(Elsewhere), 0.5)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 8193])
def test_parts_have_the_mask_of_the_whole(cut):
    x = np.random.default_rng(cut).standard_normal(40_000).astype(np.float32)
    key = {"seed": 7, "step": 3, "stream": 20}
    whole, mask = dropout(x, 0.4, **key)
    parts = [dropout(x[:cut], 0.4, **key), dropout(x[cut:], 0.4, first_element=cut, **key)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), mask)
