"""Sums over the rows of a matrix, of several vectors of columns, of one and of a part, against sums in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.ops._columns import sum_before_relu, sum_columns, sum_deviations, sum_products
from gpunet.ops._numba import jit

ROWS, COLUMNS, DTYPES = st.integers(1, 13), st.integers(1, 150), st.sampled_from(["float32", "float64"])
GAP = 3
"""Elements before a matrix and between its rows, and numbers before and after the sums."""


@jit
def run_columns(x: Any, stride: int, rows: int, columns: int, total: Any) -> None:
    sum_columns(x, 3, stride, rows, columns, total, 3)


@jit
def run_relu(dy: Any, y: Any, masked: Any, stride: int, rows: int, columns: int, total: Any) -> None:
    sum_before_relu(dy, y, masked, 3, stride, rows, columns, total, 3)


@jit
def run_deviations(x: Any, stride: int, rows: int, columns: int, first: Any, second: Any) -> None:
    sum_deviations(x, 3, stride, rows, columns, first, second, 3)


@jit
def run_products(dy: Any, x: Any, stride: int, rows: int, columns: int, shift: Any, first: Any, second: Any) -> None:
    sum_products(dy, x, 3, stride, rows, columns, shift, first, second, 3)


class Problem:
    """Random matrices in memory that is NaN around them."""

    def __init__(self, rows: int, columns: int, dtype: str) -> None:
        self.rows, self.columns, self.dtype, self.stride = rows, columns, np.dtype(dtype), columns + GAP
        self.rng = np.random.default_rng(rows * 64 + columns)

    def matrix(self, values: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Flat memory, and the matrix in it, a view."""
        memory = np.full(GAP + self.rows * self.stride, np.nan, self.dtype)
        inside = memory[GAP:].reshape(self.rows, self.stride)[:, : self.columns]
        inside[...] = self.rng.standard_normal(inside.shape) if values is None else values
        return memory, inside

    def vector(self) -> np.ndarray:
        return np.full(self.columns + 2 * GAP, -7, self.dtype)

    def check(self, found: np.ndarray, terms: np.ndarray) -> None:
        """`found` holds the sums of the rows of `terms`, to the rounding of its terms and of so many additions."""
        assert found[:GAP].tolist() == found[-GAP:].tolist() == [-7] * GAP
        error = np.abs(found[GAP:-GAP] - terms.sum(0, dtype=np.float64))
        bound = (self.rows + 2) * np.finfo(self.dtype).eps * np.abs(terms).sum(0, dtype=np.float64)
        assert (error <= bound).all()


@given(rows=ROWS, columns=COLUMNS, dtype=DTYPES)
def test_columns(rows: int, columns: int, dtype: str) -> None:
    problem = Problem(rows, columns, dtype)
    (memory, x), total = problem.matrix(), problem.vector()
    run_columns(memory, problem.stride, rows, columns, total)
    problem.check(total, x.astype(np.float64))


@given(rows=ROWS, columns=COLUMNS, dtype=DTYPES)
def test_gradients_before_a_relu(rows: int, columns: int, dtype: str) -> None:
    problem = Problem(rows, columns, dtype)
    (dy_memory, dy), (y_memory, y), (masked_memory, masked) = problem.matrix(), problem.matrix(), problem.matrix()
    y[y < 0] = 0
    total = problem.vector()
    run_relu(dy_memory, y_memory, masked_memory, problem.stride, rows, columns, total)
    expected = np.where(y > 0, dy, 0)
    np.testing.assert_array_equal(masked, expected)
    around = np.ones(masked_memory.shape, bool)
    around[GAP:].reshape(rows, problem.stride)[:, :columns] = False
    assert np.isnan(masked_memory[around]).all()
    problem.check(total, expected.astype(np.float64))


def test_a_gradient_passes_where_the_output_is_not_a_number() -> None:
    dy, y, masked, total = np.float32([0, 0, 0, 1, 2]), np.full(5, np.nan, "f"), np.zeros(5, "f"), np.zeros(5, "f")
    run_relu(dy, y, masked, 2, 1, 2, total)
    assert masked.tolist() == total.tolist() == [0, 0, 0, 1, 2]


@given(rows=ROWS, columns=COLUMNS, dtype=DTYPES)
def test_deviations_from_the_first_row(rows: int, columns: int, dtype: str) -> None:
    problem = Problem(rows, columns, dtype)
    (memory, x), first, second = problem.matrix(), problem.vector(), problem.vector()
    run_deviations(memory, problem.stride, rows, columns, first, second)
    deviations = (x - x[0]).astype(np.float64)  # rounded as the kernel's are
    problem.check(first, deviations)
    problem.check(second, deviations**2)


@given(rows=ROWS, columns=COLUMNS, dtype=DTYPES)
def test_products_with_what_is_shifted(rows: int, columns: int, dtype: str) -> None:
    problem = Problem(rows, columns, dtype)
    (dy_memory, dy), (memory, x), shift = problem.matrix(), problem.matrix(), problem.vector()
    shift[GAP:-GAP] = problem.rng.standard_normal(columns)
    first, second = problem.vector(), problem.vector()
    run_products(dy_memory, memory, problem.stride, rows, columns, shift, first, second)
    problem.check(first, dy.astype(np.float64))
    problem.check(second, dy.astype(np.float64) * (x - shift[GAP:-GAP]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_column_has_the_same_bits_wherever_it_lies(dtype: str) -> None:
    problem = Problem(11, 150, dtype)
    (memory, _), total = problem.matrix(), problem.vector()
    run_columns(memory, problem.stride, 11, 150, total)
    for column in range(150):
        alone = np.zeros(4, dtype)
        run_columns(memory[column:], problem.stride, 11, 1, alone)
        assert alone[3] == total[3 + column]
