"""What a device is, and on which one an array lives: the switch between NumPy and CuPy.

A :class:`Backend` is a device plus the array module that works on it. ``cpu`` is NumPy with Numba kernels;
``cuda:N`` is CuPy with the CUDA sources of ``kernels/``. Nothing above :mod:`gpunet.ops` needs to know which.

Device strings are ``auto``, ``cpu``, ``cuda`` and ``cuda:N``. The first of these that is given decides: the
argument of a call, :func:`use_device`, the environment variable ``GPUNET_DEVICE``, ``auto``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet import aligned
from gpunet.errors import ConfigError, DeviceError, DTypeError

Array = Any
"""A ``numpy.ndarray`` or ``cupy.ndarray``; there is no tensor class."""

logger = logging.getLogger("gpunet")


@dataclass(frozen=True)
class Backend:
    """One device and the array module (``numpy`` or ``cupy``) that works on it."""

    device: str
    xp: Any = field(repr=False, compare=False)
    implementation: str
    """The module of an op's package that runs here: ``cpu`` or ``cuda``."""

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """`array` on this device, copied only when it has to be; the one place where data changes device."""
        return self.xp.asarray(array, dtype=dtype)

    def to_numpy(self, array: Array) -> np.ndarray:
        """`array` as a NumPy array on the host; waits for the device."""
        return np.asarray(array.get() if hasattr(array, "get") else array)

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return (self.xp if self.asynchronous else aligned).empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        return (self.xp if self.asynchronous else aligned).zeros(shape, dtype)

    @property
    def runtime(self) -> Any:
        """What launches kernels on this device (:class:`gpunet.cuda.Runtime`).

        Raises:
            DeviceError: the device is the CPU.
        """
        return importlib.import_module("gpunet.cuda").runtime_of(self.device)  # on first use: it knows CuPy

    @property
    def asynchronous(self) -> bool:
        """Whether work is only queued here, so that looking at a result means waiting for all that is queued."""
        return self.implementation == "cuda"

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """`step` in its fastest repeatable form: on the CPU, the function itself; on a GPU, a CUDA graph.

        For a graph, `step` must do nothing but call ops on arrays of this device that stay where they are. Its first
        call runs as it is, the second records what is launched, and from then on that is replayed and `step` itself is
        not called again: what changes from call to call must lie in arrays on the device, and nothing may look at a
        value.
        """
        return self.runtime.capture(step) if self.asynchronous else step

    def synchronize(self) -> None:
        """Wait until the device has finished all work; at once on the CPU."""
        if self.asynchronous:
            self.runtime.synchronize()


CPU = Backend(device="cpu", xp=np, implementation="cpu")

_current: ContextVar[Backend | None] = ContextVar("gpunet_device", default=None)
_array_types: dict[type, Callable[[Array], Backend]] = {np.ndarray: lambda array: CPU}


def register_array_type(array_type: type, backend_of_array: Callable[[Array], Backend]) -> None:
    """Teach :func:`backend_of` about an array type; a subclass is matched before its base."""
    _array_types[array_type] = backend_of_array


def backend_of(*arrays: Array | None) -> Backend:
    """The one backend on which all `arrays` live; ``None`` entries are skipped.

    Raises:
        DeviceError: the arrays live on different devices. Nothing is moved silently.
        DTypeError: something is not an array of a known kind.
    """
    found: Backend | None = None
    for array in arrays:
        if array is None:
            continue
        backend = _backend_of_type(array)
        if found is None:
            found = backend
        elif backend is not found and backend != found:
            raise DeviceError(
                f"arrays of one operation live on different devices: {found.device} and {backend.device}; "
                "move them with Backend.asarray(...) first"
            )
    if found is None:
        raise DTypeError("no array was given, so the device is unknown")
    return found


def _backend_of_type(array: Any) -> Backend:
    if type(array) is np.ndarray:
        return CPU
    for array_type in type(array).__mro__:
        if array_type in _array_types:
            return _array_types[array_type](array)
        if array_type.__module__.partition(".")[0] == "cupy":
            register_array_type(array_type, lambda array: _cuda_backend(array.device.id))
            return _array_types[array_type](array)
    raise DTypeError(
        f"expected numpy or cupy arrays, got {type(array).__module__}.{type(array).__qualname__}; "
        "convert it with numpy.asarray(...) first"
    )


@functools.cache
def _cuda_backend(index: int) -> Backend:
    import cupy

    return Backend(device=f"cuda:{index}", xp=cupy, implementation="cuda")


@dataclass(frozen=True)
class CudaStatus:
    """What :func:`cuda_status` found out about CuPy, the driver and the GPUs of this machine."""

    problem: str | None
    """Why ``cuda`` cannot be used, and what to do about it; ``None`` if it can."""
    cupy_version: str | None = None
    devices: tuple[str, ...] = ()
    """Names of the GPUs."""
    driver: str | None = None
    """The newest CUDA version that the driver can run."""
    runtime: str | None = None
    """The CUDA version that CuPy was built for."""


@functools.cache
def cuda_status() -> CudaStatus:
    """Look once for CuPy, a driver and a GPU; never raises. A CuPy without a driver counts as no CuPy."""
    try:
        import cupy
    except ImportError:
        return CudaStatus("CuPy is not installed: pip install 'gpunet[cuda12]' (or cuda13)")
    except Exception as error:  # a broken CuPy installation raises anything, from OSError to RuntimeError
        return CudaStatus(f"CuPy is installed but cannot be imported: {error}")
    names: list[str] = []
    driver = runtime = None
    try:
        if cupy.cuda.is_available():
            api = cupy.cuda.runtime
            driver, runtime = _cuda_version(api.driverGetVersion()), _cuda_version(api.runtimeGetVersion())
            names = [api.getDeviceProperties(index)["name"].decode() for index in range(api.getDeviceCount())]
    except Exception as error:  # the runtime's own exception type cannot be named without a driver
        return CudaStatus(f"the CUDA driver does not answer: {error}", cupy.__version__)
    problem = None if names else "CuPy finds no usable NVIDIA GPU or driver; check with nvidia-smi"
    return CudaStatus(problem, cupy.__version__, tuple(names), driver, runtime)


def _cuda_version(number: int) -> str:
    """``12.8`` for 12080."""
    return f"{number // 1000}.{number % 1000 // 10}"


@functools.cache
def _warn_fallback(problem: str) -> None:
    logger.warning("no CUDA device (%s): running on the CPU", problem)


def get_backend(device: str | Backend | None = None) -> Backend:
    """The backend for `device`; without one, the device of :func:`use_device`, ``GPUNET_DEVICE``, or ``auto``.

    Raises:
        ConfigError: `device` is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        DeviceError: ``cuda`` was asked for by name and cannot be used; the message says what is missing.
    """
    if isinstance(device, Backend):
        return device
    if device is None:
        chosen = _current.get()
        if chosen is not None:
            return chosen
        device = os.environ.get("GPUNET_DEVICE") or "auto"
    if device == "cpu":
        return CPU
    if device != "auto" and not re.fullmatch(r"cuda(:\d+)?", device):
        raise ConfigError(f"unknown device {device!r}: expected auto, cpu, cuda or cuda:N")
    status = cuda_status()
    if device == "auto":
        if status.problem:
            _warn_fallback(status.problem)
            return CPU
        device = "cuda:0"
    if status.problem:
        raise DeviceError(f"device {device!r} is not available: {status.problem} (gpunet doctor explains)")
    index = int(device.partition(":")[2] or 0)
    if index >= len(status.devices):
        raise DeviceError(f"device {device!r} does not exist: this machine has {len(status.devices)} CUDA device(s)")
    return _cuda_backend(index)


class use_device(contextlib.AbstractContextManager["Backend"]):
    """Make `device` the default from here on; as ``with use_device("cpu"):``, only inside the block.

    Raises: as :func:`get_backend`.
    """

    def __init__(self, device: str) -> None:
        self.backend = get_backend(device)
        self._token = _current.set(self.backend)

    def __enter__(self) -> Backend:
        return self.backend

    def __exit__(self, *exc_info: object) -> None:
        _current.reset(self._token)


def devices() -> Iterator[str]:
    """The device strings that can be used on this machine."""
    yield "cpu"
    status = cuda_status()
    if status.problem is None:
        yield from (f"cuda:{index}" for index in range(len(status.devices)))
