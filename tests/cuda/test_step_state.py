"""The CUDA bookkeeping of a step against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet import ops
from gpunet.ops.step_state import reference
from tests.cuda.conftest import Device


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("losses", "scale"), [((0.7, 0.3, np.nan, 0.1, np.inf), 1.0), ((0.7, 0.3, 0.2, 0.1, 0.5), np.inf)]
)
def test_against_reference(device: Device, dtype: Any, losses: tuple[float, ...], scale: float) -> None:
    expected = np.array([7, 0, 0, 0, -1]), np.zeros(2)
    ours = [device.array(array.copy()) for array in expected]
    rates = np.array([0.5, 0.25, 0.125])
    for loss, factor in zip(losses, (1.0, 0.5, scale, 1.0, 1.0), strict=True):
        step = rates, np.array(loss, dtype), np.array(5), np.array(factor, dtype)
        given = list(map(device.array, step))
        reference.advance_step(*expected, *step, batch_size=16)
        ops.advance_step(*ours, *given, batch_size=16)
        np.testing.assert_array_equal(device.host(given[3]), step[3])
        np.testing.assert_array_equal(device.host(ours[0]), expected[0])
        np.testing.assert_array_equal(device.host(ours[1]), expected[1])
    assert expected[0][4] == 9
