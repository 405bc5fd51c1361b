"""What a device is, and on which one an array lives: the switch between NumPy and CuPy.

A :class:`Backend` is a device plus the array module that works on it. ``cpu`` is NumPy with Numba kernels;
``cuda:N`` is CuPy with the CUDA sources of ``kernels/``. Nothing above :mod:`gpunet.ops` needs to know which.

Device strings are ``auto``, ``cpu``, ``cuda`` and ``cuda:N``. The first of these that is given decides: the
argument of a call, :func:`use_device`, the environment variable ``GPUNET_DEVICE``, ``auto``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet.errors import ConfigError, DeviceError, DTypeError

Array = Any
"""A ``numpy.ndarray`` or ``cupy.ndarray``; there is no tensor class."""

logger = logging.getLogger("gpunet")

CUDA_KERNELS_AVAILABLE = False
"""Whether this version ships CUDA kernels. While it does not, a CUDA device is refused, never half-supported."""


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
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        return self.xp.zeros(shape, dtype)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """`step` in its fastest repeatable form: on the CPU, the function itself."""
        return step

    def synchronize(self) -> None:
        """Wait until the device has finished all work; at once on the CPU."""


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
        for array_type in type(array).__mro__:
            if array_type in _array_types:
                backend = _array_types[array_type](array)
                break
        else:
            raise DTypeError(
                f"expected numpy or cupy arrays, got {type(array).__module__}.{type(array).__qualname__}; "
                "convert it with numpy.asarray(...) first"
            )
        if found is None:
            found = backend
        elif backend != found:
            raise DeviceError(
                f"arrays of one operation live on different devices: {found.device} and {backend.device}; "
                "move them with Backend.asarray(...) first"
            )
    if found is None:
        raise DTypeError("no array was given, so the device is unknown")
    return found


@dataclass(frozen=True)
class CudaStatus:
    """What :func:`cuda_status` found out about CuPy, the driver and the GPUs of this machine."""

    cupy_version: str | None
    devices: tuple[str, ...]
    problem: str | None
    """Why ``cuda`` cannot be used, and what to do about it; ``None`` if it can."""


@functools.cache
def cuda_status() -> CudaStatus:
    """Look once for CuPy, a driver and a GPU; never raises. A CuPy without a driver counts as no CuPy."""
    version, names, problem = _probe_cupy()
    if not CUDA_KERNELS_AVAILABLE:  # installing anything would not help
        problem = "this version of gpunet does not ship its CUDA kernels yet; use cpu"
    return CudaStatus(version, names, problem)


def _probe_cupy() -> tuple[str | None, tuple[str, ...], str | None]:
    """Version of CuPy, names of the GPUs, and what is missing if anything is."""
    try:
        import cupy
    except ImportError:
        return None, (), "CuPy is not installed: pip install 'gpunet[cuda12]' (or cuda13)"
    except Exception as error:  # a broken CuPy installation raises anything, from OSError to RuntimeError
        return None, (), f"CuPy is installed but cannot be imported: {error}"
    names: list[str] = []
    try:
        if cupy.cuda.is_available():
            for index in range(cupy.cuda.runtime.getDeviceCount()):
                names.append(cupy.cuda.runtime.getDeviceProperties(index)["name"].decode())
    except Exception as error:  # the runtime's own exception type cannot be named without a driver
        return cupy.__version__, (), f"the CUDA driver does not answer: {error}"
    if not names:
        return cupy.__version__, (), "CuPy finds no usable NVIDIA GPU or driver; check with nvidia-smi"
    return cupy.__version__, tuple(names), None


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
    import cupy

    return Backend(device=f"cuda:{index}", xp=cupy, implementation="cuda")


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
