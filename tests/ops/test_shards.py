"""Sums over shards: the reference by hand, Numba to the reference."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import record_shard, sum_shards, weigh_shards
from gpunet.ops.shards import reference

IMPLEMENTATIONS = pytest.mark.parametrize("summed", [sum_shards, reference.sum_shards])


@st.composite
def shards(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, columns = draw(st.integers(1, 9)), draw(st.sampled_from([0, 1, 3, 2047, 2048, 2049, 5000]))
    rows = rng.standard_normal((count, columns)).astype(draw(st.sampled_from(["float32", "float64"])))
    return rows, rng.random(count)


@IMPLEMENTATIONS
def test_by_hand(summed):
    rows = np.array([[1, 2], [3, -4], [5, 0.5]], np.float32)
    np.testing.assert_array_equal(summed(rows, np.array([0.5, 0.25, 2.0])), np.array([11.25, 1.0], np.float32))
    out = np.empty(2, np.float32)
    assert summed(rows, np.ones(3), out=out) is out
    np.testing.assert_array_equal(out, [9, -1.5])


@IMPLEMENTATIONS
def test_the_order_of_the_rows(summed):
    """In float64, 1e16 + 1 is 1e16: the sum says in which order it was made."""
    rows = np.array([[1e16], [1.0], [-1e16], [1.0]])
    assert summed(rows, np.ones(4)).item() == 1.0
    assert summed(rows[[0, 2, 1, 3]], np.ones(4)).item() == 2.0


@settings(max_examples=60)
@given(shards())
def test_cpu_is_the_reference(given_shards):
    rows, weights = given_shards
    before = rows.copy()
    found = sum_shards(rows, weights)
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, reference.sum_shards(rows, weights))
    np.testing.assert_array_equal(rows, before)
    for column in range(0, rows.shape[1], 997):
        exact = sum(Fraction(float(w)) * Fraction(float(v)) for w, v in zip(weights, rows[:, column], strict=True))
        bound = sum(abs(w * float(v)) for w, v in zip(weights, rows[:, column], strict=True))
        limit = 2 * len(rows) * 2.0**-53 * bound + float(np.finfo(rows.dtype).eps) / 2 * abs(float(exact))
        assert math.isclose(float(found[column]), float(exact), rel_tol=0, abs_tol=limit)


def test_a_part_of_the_columns_has_the_same_bits():
    rows, weights = np.random.default_rng(0).standard_normal((6, 5001)).astype(np.float32), np.full(6, 1 / 6)
    whole = sum_shards(rows, weights)
    for start, end in ((0, 1), (1, 2501), (2501, 5001)):
        part = sum_shards(np.ascontiguousarray(rows[:, start:end]), weights)
        np.testing.assert_array_equal(part, whole[start:end])


def test_refused():
    rows, weights = np.ones((2, 3), np.float32), np.ones(2)
    with pytest.raises(ShapeError, match=r"weights must have shape \(2,\)"):
        sum_shards(rows, np.ones(3))
    with pytest.raises(DTypeError, match="weights must be float64"):
        sum_shards(rows, weights.astype(np.float32))
    with pytest.raises(ShapeError, match="C-contiguous"):
        sum_shards(np.ones((3, 2), np.float32).T, weights)
    with pytest.raises(ShapeError, match="out"):
        sum_shards(rows, weights, out=np.ones(2, np.float32))
    with pytest.raises(ShapeError, match="at least one"):
        sum_shards(np.ones((0, 3), np.float32), np.ones(0))


@pytest.mark.parametrize("room", [(record_shard, weigh_shards), (reference.record_shard, reference.weigh_shards)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_facts_by_hand(room, dtype):
    record, weigh = room
    facts = np.full((2, 4), 9, dtype)
    record(facts[0], np.array(0.5, dtype), np.array(3), rows=4)
    record(facts[1], np.array(2.0, dtype), np.array([1]), rows=4)
    np.testing.assert_array_equal(facts, [[0.5, 3, 4, 9], [2, 1, 4, 9]])
    weights, correct = np.empty(2), np.empty(1, np.int64)
    weigh(facts, weights, correct)
    assert weights.tolist() == [0.5, 0.5] and correct.item() == 4
    weight = np.array([0.25, 2.0, 7.0], dtype)
    record(facts[1], np.array(2.0, dtype), np.array(1), rows=4, labels=np.array([0, 1, 1, 0]), weight=weight)
    assert facts[1].tolist() == [2, 1, 4.5, 9]
    weigh(facts, weights, correct)
    assert weights.tolist() == [4 / 8.5, 4.5 / 8.5]


def test_facts_refused():
    loss, correct = np.zeros((), np.float32), np.zeros((), np.int64)
    with pytest.raises(ShapeError, match="at least 3 entries"):
        record_shard(np.zeros(2, np.float32), loss, correct, rows=1)
    with pytest.raises(DTypeError, match="correct must be int64"):
        record_shard(np.zeros(3, np.float32), loss, loss, rows=1)
    with pytest.raises(ShapeError, match="labels"):
        record_shard(np.zeros(3, np.float32), loss, correct, rows=2, labels=np.zeros(3, int), weight=np.ones(2, "f"))
    with pytest.raises(ConfigError, match="rows must be at least 1"):
        record_shard(np.zeros(3, np.float32), loss, correct, rows=0)
    with pytest.raises(ShapeError, match="facts must be"):
        weigh_shards(np.zeros((2, 2)), np.zeros(2), np.zeros(1, np.int64))
