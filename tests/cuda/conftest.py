"""The devices that run the CUDA sources: the emulator with three orders of its threads, and a GPU if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpunet import cuda
from gpunet.backend import Array, Backend
from gpunet.devices import get_backend

SEEDS = (1, 2, 3)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the test that looks at what the others have launched behind them."""
    items.sort(key=lambda item: item.name == "test_every_kernel_was_launched_with_every_seed")


@dataclass(frozen=True)
class Device:
    """A device that runs the CUDA sources."""

    backend: Backend

    def array(self, values: Any, dtype: Any = None) -> Array:
        """`values` on the device. A NumPy view that is not contiguous becomes such a view there."""
        values = np.asarray(values, dtype)
        if values.flags.c_contiguous or values.base is None:
            return self.backend.asarray(values)
        padded = self.backend.zeros((*values.shape, 2), values.dtype)
        padded[..., 0] = self.backend.asarray(np.ascontiguousarray(values))
        return padded[..., 0]

    def host(self, array: Array) -> np.ndarray:
        return self.backend.to_numpy(array)


def _emulator(seed: int) -> Device:
    from tests.emulator import EMULATED, RUNTIME, missing

    reason = missing()
    if reason:
        pytest.skip(reason)
    RUNTIME.seed = seed
    return Device(EMULATED)


@pytest.fixture(
    scope="session",
    params=[
        *(pytest.param(seed, marks=pytest.mark.emulator, id=f"emulator{seed}") for seed in SEEDS),
        pytest.param(0, marks=pytest.mark.gpu, id="gpu"),
    ],
)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    yield _emulator(request.param) if request.param else Device(get_backend("cuda"))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched."""
    names: list[str] = []
    launch = cuda.launch

    def noted(source: str, kernel: str, *args: Any, **options: Any) -> None:
        names.append(kernel)
        launch(source, kernel, *args, **options)

    monkeypatch.setattr(cuda, "launch", noted)
    return names
