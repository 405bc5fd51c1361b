"""Arrays of the emulated device behave as CuPy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpunet.backend import CPU, backend_of
from gpunet.errors import DeviceError
from tests.emulator import EMULATED, EmulatedArray

pytestmark = pytest.mark.emulator

xp = EMULATED.xp


@pytest.fixture
def x() -> Any:
    return EMULATED.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))


def test_backend(x: Any) -> None:
    assert backend_of(x, x[0], x.T) is EMULATED
    assert EMULATED.steps_between_reads > 1 and EMULATED.asarray(x) is x
    with pytest.raises(DeviceError, match="different devices"):
        backend_of(x, np.zeros(3))
    assert type(EMULATED.to_numpy(x)) is np.ndarray and backend_of(EMULATED.to_numpy(x)) is CPU


def test_memory_is_poisoned_and_separate(x: Any) -> None:
    assert np.isnan(xp.empty((2, 3), np.float64).get()).all()
    assert (xp.empty(3, np.int32).get() == -1).all()
    assert (xp.zeros((2, 0, 3)).shape, xp.zeros(3).get().sum(), xp.ones(3, "int8").get().sum()) == ((2, 0, 3), 0, 3)
    assert xp.full((2,), 7.0, np.float32).dtype == np.float32
    assert x.get() is not x and not np.shares_memory(np.asarray(x), x.get())
    host = np.zeros(3)
    EMULATED.asarray(host)[...] = 1
    assert host.sum() == 0


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, host: x + host,
        lambda x, host: host + x,
        lambda x, host: np.add(x, x, out=host),
        lambda x, host: x.__iadd__(host),
        lambda x, host: host.__iadd__(x),
        lambda x, host: x.__setitem__(Ellipsis, host),
        lambda x, host: x == host,
        lambda x, host: xp.concatenate([x, host]),
        lambda x, host: xp.where(x > 0, x, host),
        lambda x, host: np.concatenate([x, host]),
        lambda x, host: x.clip(host, None),
    ],
)
def test_mixing_with_the_host_is_refused(x: Any, operation: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TypeError, match="mixes an array of the device with one of the host"):
        operation(x, np.ones((3, 4), np.float32))


def test_numbers_mix(x: Any) -> None:
    y = 2 * x + np.float32(1) - np.array(1.0, np.float32)
    x[1] = 5
    x[...] += np.float32(1)
    assert type(y) is EmulatedArray and y.dtype == np.float32
    np.testing.assert_array_equal(y.get(), 2 * np.arange(12, dtype=np.float32).reshape(3, 4))
    np.testing.assert_array_equal(x.get()[:, 0], [1, 6, 9])


def test_views_and_elements_stay_on_the_device(x: Any) -> None:
    element = x[1, 2]
    assert type(element) is EmulatedArray and element.shape == () and float(element) == 6
    x[1, 2] = 7
    assert int(element) == 7  # a view
    for array in (x[0], x.T, x.reshape(-1), x.ravel(), x[:, None], x.view(np.int32), next(iter(x)), x[x > 3]):
        assert type(array) is EmulatedArray
    index = EMULATED.asarray(np.array([2, 0]))
    np.testing.assert_array_equal(x[index].get()[:, 0], [8, 0])


def test_reductions_stay_on_the_device(x: Any) -> None:
    for result in (x.sum(), x.max(), x.mean(), x.argmax(), np.sum(x), xp.sum(x), abs(x).max() < float("inf"), x.all()):
        assert type(result) is EmulatedArray and result.shape == ()
    assert bool(xp.isfinite(x).all()) and x.sum(axis=0).tolist() == [12, 15, 18, 21]
    labels = EMULATED.asarray(np.array([0, 1, 1]))
    assert xp.bincount(labels.astype(xp.int64) * 2, minlength=4).reshape(2, 2).tolist() == [[1, 0], [2, 0]]
    assert f"{x.max()}" == "11.0" and x.argsort(axis=1).dtype == np.int64
