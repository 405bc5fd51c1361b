"""The racers do the work that they are timed for, each time they are asked."""

from __future__ import annotations

import pytest

from bench.racers import gpunet


@pytest.mark.parametrize("case", ["mlp", "cnn"])
def test_each_turn_of_gpunet_trains_on_all_images(case: str) -> None:
    turn = gpunet(case, 16, count=48)
    assert [turn() for _ in range(3)] == [48, 48, 48]
