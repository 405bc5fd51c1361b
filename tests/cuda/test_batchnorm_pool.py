"""The CUDA batch norm with max pooling against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from gpunet.ops.batchnorm_pool import batch_norm_max_pool, batch_norm_max_pool_backward
from tests.cuda.conftest import Device
from tests.ops.test_batchnorm_pool import Case, arrays, cases, check, check_backward, check_parts

TERMS = 16
"""As in batch norm's test: four rows are added in the dtype of x."""


def check_on(device: Device, case: Case) -> None:
    """Both directions and the running statistics."""
    given, dy = arrays(case)
    ours = {name: device.array(array) for name, array in given.items()}
    y, saved = batch_norm_max_pool(**ours, **case["options"])
    host = saved._replace(**{name: device.host(getattr(saved, name)) for name in ("mean", "inv_std", "argmax")})
    check(case, (device.host(y), host), {name: device.host(array) for name, array in ours.items()}, TERMS)
    gradients = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved)
    check_backward(case, host, tuple(map(device.host, gradients)), TERMS)
    for name in ("x", "gamma", "beta"):
        np.testing.assert_array_equal(device.host(ours[name]), given[name])


def test_parts_that_meet_are_the_whole_batch(device: Device) -> None:
    options = {"training": True, "momentum": 0.1, "eps": 1e-5}
    case = {"shape": (6, 5, 7, 8), "options": options, "mean": -3.0, "std": 2.0, "dtype": np.float32, "seed": 1}
    check_parts(case, 3, TERMS, device)


@settings(max_examples=12)
@given(case=cases())
def test_against_reference(device: Device, case: Case) -> None:
    check_on(device, case)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (3, 7, 7, 8), (2, 9, 8, 36), (5, 3, 3, 130)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes(device: Device, shape: tuple[int, ...], training: bool, dtype: Any) -> None:
    options = {"training": training, "momentum": 0.1, "eps": 1e-5}
    check_on(device, {"shape": shape, "options": options, "mean": -3.0, "std": 2.0, "dtype": dtype, "seed": 1})


def test_nan_wins(device: Device) -> None:
    x = np.zeros((1, 3, 5, 4), np.float32)
    x[0, 1, 2, 3] = np.nan
    one = device.array(np.ones(4, np.float32))
    y, saved = batch_norm_max_pool(device.array(x), one, one, one, one, training=False)
    assert np.argwhere(np.isnan(device.host(y))).tolist() == [[0, 0, 1, 3]]
    assert np.argwhere(device.host(saved.argmax)).tolist() == [[0, 0, 1, 3]] and saved.argmax[0, 0, 1, 3] == 2


def test_gradients_go_where_they_are_wanted(device: Device) -> None:
    given, dy = arrays({"shape": (2, 5, 5, 3), "mean": 0.0, "std": 1.0, "dtype": np.float32, "seed": 3})
    ours = {name: device.array(array) for name, array in given.items()}
    saved = batch_norm_max_pool(**ours, training=True)[1]
    _, dgamma, dbeta = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved)
    out = tuple(device.array(np.zeros(3, np.float32)) for _ in range(2))
    results = batch_norm_max_pool_backward(device.array(dy), ours["x"], ours["gamma"], saved, out=out)
    assert results[1] is out[0] and results[2] is out[1]
    np.testing.assert_array_equal(device.host(out[0]), device.host(dgamma))
    np.testing.assert_array_equal(device.host(out[1]), device.host(dbeta))
