"""Devices: strings and precedence, fallback, arrays of two devices, a CuPy with and without a GPU (pretended)."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpunet import backend, devices, ops
from gpunet.backend import CPU, register_array_type
from gpunet.cuda import CudaBackend
from gpunet.cuda.backend import gpu
from gpunet.devices import CudaStatus, backend_of, cuda_status, get_backend, use_device
from gpunet.errors import ConfigError, DeviceError, DTypeError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what was found out about this machine, before and after."""
    monkeypatch.delenv("GPUNET_DEVICE", raising=False)
    before = sys.modules.get("gpunet.cuda.cupy_runtime")
    forget()
    yield
    forget()
    if before is not None:
        sys.modules[before.__name__] = before


def forget() -> None:
    for found in (cuda_status, gpu, devices._warn_fallback):
        found.cache_clear()
    for name in ("cupy_runtime", "cupy_graph"):  # they hold the CuPy that they were imported with
        sys.modules.pop(f"gpunet.cuda.{name}", None)


def pretend_cupy(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] | None) -> None:
    """A CuPy module with GPUs of these names; None: its driver raises."""
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: len(names or ()),
        getDeviceProperties=lambda i: {"name": (names or ())[i].encode()},
        driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 12080,
    )

    def is_available() -> bool:
        if names is None:
            raise RuntimeError("cudaErrorInsufficientDriver")
        return bool(names)

    cupy = types.ModuleType("cupy")
    cupy.__version__ = "14.0"  # type: ignore[attr-defined]
    cupy.cuda = types.SimpleNamespace(
        is_available=is_available, runtime=runtime, Device=lambda index: types.SimpleNamespace(id=index)
    )  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)


class OtherDevice(np.ndarray):
    """An array that says it lives elsewhere."""


@pytest.fixture
def elsewhere() -> Iterator[OtherDevice]:
    other = CudaBackend("cuda:7", np, None)  # type: ignore[arg-type]
    register_array_type(OtherDevice, lambda array: other)
    yield np.ones((2, 3)).view(OtherDevice)
    del backend._array_types[OtherDevice]


def test_arrays_of_two_devices_are_refused(elsewhere: OtherDevice) -> None:
    with pytest.raises(DeviceError, match=r"different devices: cpu and cuda:7; move them with Backend\.asarray"):
        backend_of(np.ones(2), None, elsewhere)
    with pytest.raises(DeviceError, match="different devices"):
        ops.linear(np.ones((2, 2)), elsewhere)
    assert backend_of(elsewhere).device == "cuda:7"


def test_backend_of_plain_arrays_and_of_other_things() -> None:
    assert backend_of(None, np.ones(2), np.float32(1).reshape(1)) is CPU
    with pytest.raises(DTypeError, match=r"expected numpy or cupy arrays, got builtins\.list"):
        backend_of([1.0])
    with pytest.raises(DTypeError, match="no array was given"):
        backend_of(None)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "cuda:-1", "", 0, b"cpu"])
def test_unknown_device_strings(device: Any) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N"):
        get_backend(device)


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setenv("GPUNET_DEVICE", "cuda")
    with pytest.raises(DeviceError, match="CuPy is not installed"):
        get_backend()
    assert get_backend("cpu") is CPU
    with use_device("cpu") as chosen:
        assert chosen is CPU and get_backend() is CPU
    with pytest.raises(DeviceError):
        get_backend()


@pytest.mark.parametrize(("driver", "level"), [(True, logging.WARNING), (False, logging.INFO)])
def test_auto_falls_back_and_says_so_once(
    driver: bool, level: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr("gpunet.devices.nvidia_driver", lambda: driver)
    with caplog.at_level(logging.INFO, "gpunet"):
        assert get_backend() is CPU and get_backend("auto") is CPU
    (record,) = caplog.records
    assert record.levelno == level and "running on the CPU" in record.getMessage()
    assert ("pip install" in record.getMessage()) == driver


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "the CUDA driver does not answer: cudaErrorInsufficientDriver"),
        ((), "finds no usable NVIDIA GPU or driver"),
    ],
)
def test_what_is_missing_for_cuda(names: tuple[str, ...] | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cupy(monkeypatch, names)
    with pytest.raises(DeviceError, match=message) as caught:
        get_backend("cuda:0")
    assert caught.value.exit_code == 4
    assert get_backend("auto") is CPU
    assert list(devices.devices()) == ["cpu"]


def test_device_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cupy(monkeypatch, ("H100", "H100"))
    assert cuda_status() == CudaStatus(None, "14.0", ("H100", "H100"), "13.1", "12.8")
    assert get_backend("cuda").device == "cuda:0"
    assert get_backend("auto").device == "cuda:0"
    assert get_backend("cuda:1").device == "cuda:1" and get_backend("cuda:1") is get_backend("cuda:1")
    assert get_backend("cuda:1").hardware == "H100"
    assert list(devices.devices()) == ["cpu", "cuda:0", "cuda:1"]
    with pytest.raises(DeviceError, match="'cuda:2' does not exist: this machine has 2"):
        get_backend("cuda:2")


def test_host_and_back() -> None:
    array = CPU.asarray([1, 2], "float32")
    assert array.dtype == np.float32 and CPU.to_numpy(array) is array
    assert CPU.zeros(3).dtype == CPU.empty(3).dtype == np.float32
    assert CPU.capture(test_host_and_back) is test_host_and_back
    CPU.synchronize()
