"""The CUDA sum over shards: the CPU's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.ops import record_shard, sum_shards, weigh_shards
from gpunet.ops.shards import reference
from tests.cuda.conftest import Device


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 257), (8, 700)])
def test_against_the_cpu(device: Device, shape: tuple[int, int], dtype: Any) -> None:
    rng = np.random.default_rng(shape[1])
    rows, weights = rng.standard_normal(shape).astype(dtype), rng.random(shape[0])
    out = device.backend.zeros(shape[1], dtype)
    found = sum_shards(device.array(rows), device.array(weights), out=out)
    assert found is out
    np.testing.assert_array_equal(device.host(out), sum_shards(rows, weights))
    np.testing.assert_array_equal(device.host(sum_shards(device.array(rows), device.array(weights))), device.host(out))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_facts(device: Device, dtype: Any) -> None:
    """The sums of weights are exact, so their order does not show."""
    rng = np.random.default_rng(0)
    facts, weights, correct = (
        device.backend.zeros((3, 5), dtype),
        device.backend.zeros(3, "float64"),
        device.backend.zeros(1, "int64"),
    )
    expected, shares, count = np.zeros((3, 5), dtype), np.zeros(3), np.zeros(1, np.int64)
    weight = np.array([0.25, 2.0, 0.5, 7.0], dtype)
    for shard in range(3):
        loss, right, labels = np.array(rng.random(), dtype), np.array(shard + 1), rng.integers(0, 4, 300)
        about: dict[str, Any] = {"labels": labels, "weight": weight} if shard else {}
        reference.record_shard(expected[shard], loss, right, rows=300, **about)
        there = {name: device.array(value) for name, value in about.items()}
        record_shard(facts[shard], device.array(loss), device.array(right), rows=300, **there)
    np.testing.assert_array_equal(device.host(facts), expected)
    weigh_shards(facts, weights, correct)
    reference.weigh_shards(expected, shares, count)
    np.testing.assert_array_equal(device.host(weights), shares)
    assert device.host(correct).item() == count.item() == 6


def test_a_label_that_is_none_has_no_number(device: Device) -> None:
    facts = device.backend.zeros(3, "float32")
    loss, right = device.array(np.float32(1)), device.array(np.array(1))
    labels, weight = device.array(np.array([0, -1])), device.array(np.ones(2, np.float32))
    record_shard(facts, loss, right, rows=2, labels=labels, weight=weight)
    assert np.isnan(device.host(facts)[2])
