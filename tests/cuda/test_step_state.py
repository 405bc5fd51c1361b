"""The CUDA bookkeeping of a step against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet import ops
from gpunet.ops.step_state import reference
from tests.cuda.conftest import Device


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_reference(device: Device, dtype: Any) -> None:
    expected = np.array([7, 0, 0, 0, -1]), np.zeros(2)
    ours = [device.array(array.copy()) for array in expected]
    rates = np.array([0.5, 0.25, 0.125])
    for loss in (0.7, 0.3, np.nan, 0.1, np.inf):
        step = rates, np.array(loss, dtype), np.array(5)
        reference.advance_step(*expected, *step, batch_size=16)
        ops.advance_step(*ours, *map(device.array, step), batch_size=16)
        np.testing.assert_array_equal(device.host(ours[0]), expected[0])
        np.testing.assert_array_equal(device.host(ours[1]), expected[1])
    assert expected[0][4] == 9
