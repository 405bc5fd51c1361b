"""The tests of the ops, with each op called as a part of a recorded step: ``pytest -p tests.ops.recorded tests/ops``.

An op is recorded with other numbers in its arrays than the test gave it, which are put back before the recording is
repeated: what a test checks then comes from the repetition. An op that computes something only once is found out, as is
one that relies on what is left in the recording's memory, which is overwritten with NaN.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpunet import aligned, ops, recording
from gpunet.recording import Recorded

_NAN = 0xFF
"""A byte of which NaN, and -1, can be made up."""
_GATHERS = "gather"
"""The argument by which a part of a batch meets others: such steps are not recorded."""


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """The arrays in `value` and in the tuples in it."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays_in(part)


def other_numbers(array: np.ndarray) -> np.ndarray:
    """Other values that `array` might have: floats in reverse order. Integers may be indices of what there is."""
    if array.dtype.kind != "f":
        return (array + 1) // 2 if array.size == 1 else array.copy()  # a step stays 1 or more
    return array * 2 + 1 if array.size == 1 else array.reshape(-1)[::-1].reshape(array.shape).copy()


def recorded(op: Callable[..., Any]) -> Callable[..., Any]:
    """`op`, called as a part of a recorded step."""

    @functools.wraps(op)
    def call(*args: Any, **kwargs: Any) -> Any:
        arrays = [array for array in arrays_in((*args, *kwargs.values())) if array.flags.writeable]
        saved = [getattr(value, _GATHERS, None) for value in (*args, *kwargs.values())]
        if recording._active is not None or any(saved) or kwargs.get(_GATHERS) is not None:
            return op(*args, **kwargs)
        given = [array.copy() for array in arrays]
        step = Recorded(lambda: op(*args, **kwargs))

        def assign(values: list[np.ndarray]) -> None:
            for array, value in zip(arrays, values, strict=True):
                array[...] = value

        others = [other_numbers(array) for array in given]
        try:
            with np.errstate(all="ignore"):
                for _ in range(2):
                    assign(others)
                    step()
        except Exception:
            assign(given)
            op(*args, **kwargs)  # raises what the test expects
            raise
        assign(given)
        assert step.calls is not None, f"{op.__name__} was not recorded"
        step.memory.fill(_NAN)
        return step()

    return call


@pytest.fixture(autouse=True)
def ops_are_recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the ops where a test looks them up: in its module, in gpunet.ops, and in their packages."""
    found = {name: getattr(ops, name) for name in ops.__all__ if callable(getattr(ops, name))}
    monkeypatch.setattr(aligned, "SMALL", 0)  # so that all are in the recording's memory
    for name, op in found.items():
        replacement = recorded(op)
        for module in (request.module, ops, sys.modules[op.__module__]):
            if vars(module).get(name) is op:
                monkeypatch.setattr(module, name, replacement)
