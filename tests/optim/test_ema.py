"""The average of the weights, held to hand-computed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.errors import CheckpointError, ConfigError
from gpunet.optim import WeightAverage
from tests.optim.models import flat_parameters
from tests.support import assert_close


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("as_arrays", [False, True])
def test_hand_computed(dtype: Any, as_arrays: bool) -> None:
    flat = flat_parameters(dtype=dtype)
    average = WeightAverage(flat, 0.25)
    start, state = flat.values.copy(), flat.state.copy()
    expected, expected_state = start.astype(np.float64), state.astype(np.float64)
    # decays (1 + t) / (10 + t) = 2/11, 3/12, 4/13 are cut off at 0.25
    for step, decay in ((1, 2 / 11), (2, 0.25), (3, 0.25)):
        flat.values += 1
        flat.state *= 2
        expected = decay * expected + (1 - decay) * (start + step)
        expected_state = decay * expected_state + (1 - decay) * (state * 2**step)
        average.update(np.array([step]) if as_arrays else step)
    slots = average.slots()
    assert slots["values"].dtype == slots["state"].dtype == dtype
    assert_close(slots["values"], expected, terms=3, dtype=dtype)
    assert_close(slots["state"], expected_state, terms=3, dtype=dtype)


def test_applied_swaps_and_restores_every_bit() -> None:
    flat = flat_parameters(dtype=np.float32)
    average = WeightAverage(flat, 0.9)
    for step in range(1, 4):
        flat.values += np.float32(0.1)
        flat.state -= np.float32(0.3)
        average.update(step)
    values, state = flat.values.copy(), flat.state.copy()
    slots = {name: slot.copy() for name, slot in average.slots().items()}
    weight = flat.parameters["weight"].value
    with average.applied():
        np.testing.assert_array_equal(flat.values, slots["values"])
        np.testing.assert_array_equal(flat.state, slots["state"])
        assert np.shares_memory(weight, flat.values)  # the layers' views show the average too
        flat.values[...] = 7
    np.testing.assert_array_equal(flat.values, values)
    np.testing.assert_array_equal(flat.state, state)
    assert not np.array_equal(values, slots["values"])
    for name, slot in average.slots().items():
        np.testing.assert_array_equal(slot, slots[name])
    with pytest.raises(KeyError), average.applied():
        raise KeyError("an error inside")
    np.testing.assert_array_equal(flat.values, values)


def test_goes_on_from_its_slots_with_the_same_bits() -> None:
    flat = flat_parameters(dtype=np.float32)
    average, resumed = WeightAverage(flat, 0.9), WeightAverage(flat, 0.9)
    for step in range(1, 4):
        flat.values *= np.float32(1.1)
        average.update(step)
    resumed.load_slots({name: slot.copy() for name, slot in average.slots().items()})
    for step in range(4, 7):
        flat.values *= np.float32(1.1)
        average.update(step)
        resumed.update(step)
    for name, slot in average.slots().items():
        np.testing.assert_array_equal(resumed.slots()[name], slot)


def test_it_starts_as_a_copy() -> None:
    flat = flat_parameters()
    average = WeightAverage(flat, 0.9)
    np.testing.assert_array_equal(average.slots()["values"], flat.values)
    assert not np.shares_memory(average.slots()["values"], flat.values)


def test_bad_input() -> None:
    flat = flat_parameters()
    with pytest.raises(ConfigError, match=r"decay must be in \[0, 1\), got 1"):
        WeightAverage(flat, 1)
    average = WeightAverage(flat, 0.9)
    with pytest.raises(CheckpointError, match=r"fit the average of the weights: it has values, expected state, "):
        average.load_slots({"values": flat.values})
    with pytest.raises(CheckpointError, match=r"values has shape \(1,\), this model needs"):
        average.load_slots({"values": np.zeros(1), "state": flat.state})
