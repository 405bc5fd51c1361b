"""The linear op against hand-computed values, PyTorch and its reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops._numba import numba
from gpunet.ops.linear import linear, linear_backward, reference
from tests.support import assert_close, check_gradient, sum_scale, torch_or_skip

shapes = st.tuples(
    st.lists(st.integers(1, 5), min_size=0, max_size=2).map(tuple) | st.just((130,)),
    st.integers(1, 40) | st.just(150),
    st.integers(1, 40),
)
dtypes = st.sampled_from([np.float32, np.float64])


def arrays(
    shape: tuple[tuple[int, ...], int, int], dtype: type, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lead, inputs, outputs = shape
    sizes = (*lead, inputs), (inputs, outputs), (outputs,), (*lead, outputs)
    x, weight, bias, dy = (rng.standard_normal(size).astype(dtype) for size in sizes)
    return x, weight, bias, dy


@settings(max_examples=200)
@given(shape=shapes, dtype=dtypes, relu=st.booleans(), seed=st.integers(0, 10_000))
def test_cpu_matches_reference(shape: tuple[tuple[int, ...], int, int], dtype: type, relu: bool, seed: int) -> None:
    x, weight, bias, dy = arrays(shape, dtype, seed)
    strided = np.repeat(x, 2, axis=-1)[..., ::2]
    exact = [array.astype(np.float64) for array in (x, weight, bias, dy)]
    y = linear(strided, weight, bias, relu=relu)
    assert y.dtype == dtype
    wanted_y = reference.linear(*exact[:3], relu=relu)
    assert_close(y, wanted_y, terms=shape[1] + 1, scale=sum_scale(wanted_y, shape[1] + 1))
    passed = y if relu else None  # given to both: near 0, rounding may decide on which side y is
    expected = reference.linear_backward(exact[3], exact[0], exact[1], y=passed)
    rows = max(1, x.size // shape[1])
    for actual, wanted, terms in zip(
        linear_backward(dy, strided, weight, y=passed), expected, (shape[2], rows, rows), strict=True
    ):
        assert actual is not None and wanted is not None and actual.dtype == dtype
        assert_close(actual, wanted, terms=terms, scale=sum_scale(wanted, terms))


@settings(max_examples=200)
@given(shape=shapes, relu=st.booleans(), seed=st.integers(0, 10_000))
def test_reference_matches_pytorch(shape: tuple[tuple[int, ...], int, int], relu: bool, seed: int) -> None:
    torch = torch_or_skip()
    x, weight, bias, dy = arrays(shape, np.float64, seed)
    tx, tw, tb = (torch.tensor(array, requires_grad=True) for array in (x, np.ascontiguousarray(weight.T), bias))
    ty = torch.nn.functional.linear(tx, tw, tb)
    ty = torch.relu(ty) if relu else ty
    ty.backward(torch.tensor(dy))
    terms = max(shape[1], shape[2], x.size)
    scale = float(terms) ** 0.5
    y = reference.linear(x, weight, bias, relu=relu)
    assert_close(y, ty.detach().numpy(), terms=terms, scale=scale)
    dx, dweight, dbias = reference.linear_backward(dy, x, weight, y=y if relu else None)
    assert dx is not None and dweight is not None and dbias is not None
    assert_close(dx, tx.grad.numpy(), terms=terms, scale=scale)
    assert_close(dweight, tw.grad.numpy().T, terms=terms, scale=scale)
    assert_close(dbias, tb.grad.numpy(), terms=terms, scale=scale)


def test_reference_by_hand_and_by_differences() -> None:
    x, weight, bias = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0, 3.0], [2.0, 1.0, -1.0]]), np.array([0.5, 0.0, 1.0])
    np.testing.assert_array_equal(reference.linear(x, weight, bias), [[5.5, 2, 2]])
    dy = np.array([[1.0, -1.0, 2.0]])
    dx, dweight, dbias = reference.linear_backward(dy, x, weight)
    assert dx is not None and dweight is not None and dbias is not None
    np.testing.assert_array_equal(dx, [[7, -1]])
    np.testing.assert_array_equal(dweight, [[1, -1, 2], [2, -2, 4]])
    np.testing.assert_array_equal(dbias, [1, -1, 2])
    np.testing.assert_array_equal(reference.linear(-x, weight, bias, relu=True), [[0, 0, 0]])
    np.testing.assert_array_equal(reference.linear(x, weight, bias - 3, relu=True), [[2.5, 0, 0]])
    check_gradient(lambda v: reference.linear(v, weight, bias), dx, x, dy, np.random.default_rng(0))
    check_gradient(lambda v: reference.linear(x, v, bias), dweight, weight, dy, np.random.default_rng(0))


def test_relu_lets_nan_through_and_no_gradient_at_zero() -> None:
    for rows, outputs in ((1, 3), (2, 16), (8, 16), (8, 3)):  # row by row, BLAS, sums in registers
        x, weight = np.full((rows, 2), np.nan, np.float32), np.ones((2, outputs), np.float32)
        assert np.isnan(linear(x, weight, relu=True)).all()
        y = linear(np.zeros_like(x), weight, relu=True)
        np.testing.assert_array_equal(y, np.zeros((rows, outputs)))
        dx, _, dbias = linear_backward(np.ones_like(y), np.zeros_like(x), weight, y=y)
        np.testing.assert_array_equal(dx, np.zeros_like(x))
        np.testing.assert_array_equal(dbias, np.zeros(outputs))


@pytest.mark.parametrize("outputs", [130, 128])
@pytest.mark.parametrize("rows", [13, 60, 300])
def test_products_of_several_pieces_have_the_same_bits_on_any_number_of_threads(rows: int, outputs: int) -> None:
    """The shapes above are so small that one thread does them."""
    x, weight, bias, dy = arrays(((rows,), 784, outputs), np.float32, 0)
    exact = [array.astype(np.float64) for array in (x, weight, bias, dy)]
    expected = [reference.linear(*exact[:3]), *reference.linear_backward(exact[3], *exact[:2])]
    threads, results = numba.get_num_threads(), []
    for count in (1, threads):
        numba.set_num_threads(count)
        try:
            y = linear(x, weight, bias)
            results.append([y, *linear_backward(dy, x, weight)])
            for _ in range(20):  # pieces may compute the same rows at the same time
                np.testing.assert_array_equal(linear(x, weight, bias, relu=True), np.maximum(y, 0))
        finally:
            numba.set_num_threads(threads)
    for one, many, right, terms in zip(*results, expected, (784, outputs, rows, rows), strict=True):
        assert one is not None and many is not None and right is not None
        assert_close(one, right, terms=terms, dtype=np.float32, scale=sum_scale(right, terms))
        np.testing.assert_array_equal(one, many)


def test_bad_input() -> None:
    x, weight = np.ones((2, 3)), np.ones((3, 4))
    with pytest.raises(ShapeError, match="last axis of x must have the 3 inputs"):
        linear(np.ones((2, 4)), weight)
    with pytest.raises(ShapeError, match="weight must have 2 dimensions"):
        linear(x, np.ones(3))
    with pytest.raises(ShapeError, match="bias must have shape"):
        linear(x, weight, np.ones(3))
    with pytest.raises(ShapeError, match="dy must have shape"):
        linear_backward(np.ones((2, 3)), x, weight)
    with pytest.raises(ShapeError, match="y must have shape"):
        linear_backward(np.ones((2, 4)), x, weight, y=np.ones((2, 3)))
    with pytest.raises(DTypeError, match="dtypes must match"):
        linear(x, weight.astype(np.float32))
    with pytest.raises(DTypeError, match="numpy or cupy"):
        linear([[1.0, 2.0, 3.0]], weight)
    with pytest.raises(ConfigError, match="needs"):
        linear_backward(np.ones((2, 4)), x, weight, needs=("dx",))
