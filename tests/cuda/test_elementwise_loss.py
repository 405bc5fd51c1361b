"""The CUDA losses of numbers against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from gpunet.ops import elementwise_loss
from gpunet.ops.elementwise_loss import cuda
from tests.cuda.conftest import Device
from tests.emulator import RUNTIME
from tests.ops.test_elementwise_loss import DTYPES, NAMES, Case, case_of, cases


def run(device: Device, case: Case) -> tuple[np.ndarray, np.ndarray]:
    options = {
        name: device.array(value) if isinstance(value, np.ndarray) else value for name, value in case.options.items()
    }
    arrays = device.array(case.outputs), device.array(case.targets)
    loss, gradient = getattr(elementwise_loss, case.name)(*arrays, **options)
    return device.host(loss), device.host(gradient)


@settings(max_examples=20)
@given(case=cases())
def test_against_reference(device: Device, case: Case) -> None:
    case.check(run(device, case))


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_one_and_several_blocks(device: Device, name: str, dtype: Any) -> None:
    for rows, blocks in ((300, 1), (700, 3)):
        assert cuda._grid(rows * 3) == blocks
        for options in ({}, {"weighted": True}):
            case = case_of(name, rows, 3, dtype, **options)
            case.check(run(device, case))


def test_any_order_of_threads_gives_the_same_bits(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("huber_loss", 700, 3, np.float32, weighted=True)
    expected = run(device, case)
    for seed in (0, 11, 12):
        monkeypatch.setattr(RUNTIME, "seed", seed)  # of the emulator; on a GPU the order is what it is
        for again, before in zip(run(device, case), expected, strict=True):
            np.testing.assert_array_equal(again, before)


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_is_nan(device: Device, name: str) -> None:
    zeros = device.array(np.zeros((2, 1), np.float32))
    weights = device.array(np.zeros(2, np.float32))
    loss, gradient = getattr(elementwise_loss, name)(zeros, zeros, sample_weight=weights)
    assert np.isnan(device.host(loss)) and np.isnan(device.host(gradient)).all()
