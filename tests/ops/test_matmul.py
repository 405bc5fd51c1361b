"""Matrix products of whole arrays against NumPy in float64."""

from __future__ import annotations

import functools

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.ops import _matmul
from gpunet.ops._matmul import matmul
from tests.support import assert_close, sum_scale


@settings(max_examples=200)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 50) | st.just(600), st.sampled_from([1, 3, 10, 16, 33, 48, 64])),
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    into=st.booleans(),
    with_bias=st.booleans(),
    relu=st.booleans(),
    split=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_matches_numpy(
    sizes: tuple[int, int, int],
    trans_a: bool,
    trans_b: bool,
    into: bool,
    with_bias: bool,
    relu: bool,
    split: bool,
    dtype: type,
) -> None:
    rows, inner, columns = sizes
    rng = np.random.default_rng(rows * inner + columns)
    a, b = rng.standard_normal((rows, inner)).astype(dtype), rng.standard_normal((inner, columns)).astype(dtype)
    left = np.ascontiguousarray(a.T) if trans_a else a
    right = np.ascontiguousarray(b.T) if trans_b else b
    out = np.full((rows, columns), np.nan, dtype) if into else None
    bias = rng.standard_normal(columns).astype(dtype) if with_bias else None
    with pytest.MonkeyPatch.context() as patch:
        if split:  # even the smallest products
            patch.setattr(_matmul, "product", _matmul.product.__wrapped__)  # which remembers
            patch.setattr(_matmul, "_tasks", lambda rows, inner, columns, panel: (-(-rows // 8), -(-columns // panel)))
        c = matmul(left, right, trans_a=trans_a, trans_b=trans_b, bias=bias, relu=relu, out=out)
    assert c.dtype == dtype and (out is None or c is out)
    wanted = a.astype(np.float64) @ b.astype(np.float64) + (0 if bias is None else bias.astype(np.float64))
    wanted = np.maximum(wanted, 0) if relu else wanted
    assert_close(c, wanted, terms=inner + 1, scale=sum_scale(wanted, inner))


@pytest.mark.parametrize("shape", [(128, 784, 128), (784, 128, 64), (1, 256, 512), (200, 300, 1024), (128, 512, 10)])
def test_bits_of_a_row_do_not_depend_on_threads_or_on_the_rows_beside_it(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(shape[:2], np.float32), rng.standard_normal(shape[1:], np.float32)
    threads, found = numba.get_num_threads(), []
    for count in (1, threads):
        numba.set_num_threads(count)
        try:
            found.append(matmul(a, b))
        finally:
            numba.set_num_threads(threads)
    assert found[0].tobytes() == found[1].tobytes()
    part = np.ascontiguousarray(a[-1:])
    assert matmul(part, b).tobytes() == found[0][-1:].tobytes()
    assert matmul(np.ascontiguousarray(a.T), b, trans_a=True).tobytes() == found[0].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5000, 40, 65), (9001, 64, 32), (4096, 1, 129)])
def test_long_sums_in_parts(shape: tuple[int, int, int], dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    terms, rows, columns = shape
    rng, threads, found = np.random.default_rng(0), numba.get_num_threads(), []
    a, b = rng.standard_normal((terms, rows)).astype(dtype), rng.standard_normal((terms, columns)).astype(dtype)
    with monkeypatch.context() as patch:
        patch.setattr(_matmul, "_in_parts", lambda shape, parts, dtype: parts)
        of_shape = functools.partial(_matmul.product.__wrapped__, a.shape, b.shape, _matmul.TRANS_A)
        assert 4 <= of_shape(False, a.dtype) <= 8
        assert callable(of_shape(True, a.dtype))  # with a bias
    for count in (1, threads):
        numba.set_num_threads(count)
        try:
            found.append(matmul(a, b, trans_a=True))
        finally:
            numba.set_num_threads(threads)
    assert found[0].tobytes() == found[1].tobytes()
    wanted = a.astype(np.float64).T @ b.astype(np.float64)
    assert_close(found[0], wanted, terms=terms, scale=sum_scale(wanted, terms))


@pytest.mark.parametrize("rows", [1, 20])
def test_nothing_to_add_up_and_nan(rows: int) -> None:
    assert (matmul(np.ones((rows, 0)), np.ones((0, 16))) == 0).all()
    a = np.ones((rows, 4))
    a[0, 2] = np.nan
    c = matmul(a, np.zeros((4, 16)))
    assert np.isnan(c[0]).all() and (c[1:] == 0).all()
