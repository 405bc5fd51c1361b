"""Batches of no rows on the CUDA path: no empty grid, no division by their number, the results of the CPU."""

from __future__ import annotations

import pytest

from tests.cuda.conftest import Device
from tests.ops import empty_batches


@pytest.mark.parametrize("name", empty_batches.NAMES)
def test_no_rows(device: Device, name: str) -> None:
    empty_batches.check(name, device.array, device.host)
