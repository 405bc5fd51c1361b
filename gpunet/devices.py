"""Selecting a device by name.

Device strings are ``auto``, ``cpu``, ``cuda`` and ``cuda:N``. In order of precedence: the argument of a call,
:func:`use_device`, the environment variable ``GPUNET_DEVICE``, ``auto``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar

from gpunet.backend import CPU, Backend, backend_of
from gpunet.cuda.backend import gpu
from gpunet.cuda.status import CudaStatus, cuda_status, nvidia_driver
from gpunet.errors import ConfigError, DeviceError

__all__ = ["CudaStatus", "backend_named", "backend_of", "cuda_status", "devices", "get_backend", "use_device"]

logger = logging.getLogger("gpunet")

_current: ContextVar[Backend | None] = ContextVar("gpunet_device", default=None)


@functools.cache
def _warn_fallback(problem: str) -> None:
    if nvidia_driver():
        logger.warning("this machine has an NVIDIA driver, but no GPU can be used (%s): running on the CPU", problem)
    else:
        logger.info("no NVIDIA GPU: running on the CPU")


def get_backend(device: str | Backend | None = None) -> Backend:
    """The backend for `device`; by default that of :func:`use_device`, then ``GPUNET_DEVICE``, then ``auto``.

    ``auto`` is the first GPU or, if none is usable, the CPU: with a single warning where there is an NVIDIA driver.

    Raises:
        ConfigError: `device` is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        DeviceError: ``cuda`` was requested explicitly and is not usable; the message says what is missing.

    >>> gn.get_backend("cpu")
    CpuBackend('cpu')
    >>> gn.get_backend("cpu").zeros(2)
    array([0., 0.], dtype=float32)
    >>> gn.get_backend("gpu")
    Traceback (most recent call last):
    ...
    gpunet.errors.ConfigError: unknown device 'gpu': expected auto, cpu, cuda or cuda:N
    """
    if isinstance(device, Backend):
        return device
    source = ""
    if device is None:
        chosen = _current.get()
        if chosen is not None:
            return chosen
        device = os.environ.get("GPUNET_DEVICE") or "auto"
        source = " (the environment variable GPUNET_DEVICE)"
    if device == "cpu":
        return CPU
    if not isinstance(device, str) or (device != "auto" and not re.fullmatch(r"cuda(:\d+)?", device)):
        raise ConfigError(f"unknown device {device!r:.80}{source}: expected auto, cpu, cuda or cuda:N")
    status = cuda_status()
    if device == "auto":
        if status.problem:
            _warn_fallback(status.problem)
            return CPU
        device = "cuda:0"
    if status.problem:
        raise DeviceError(f"device {device!r}{source} is not available: {status.problem} (gpunet doctor explains)")
    index = int(device.partition(":")[2] or 0)
    if index >= len(status.devices):
        raise DeviceError(
            f"device {device!r}{source} does not exist: this machine has {len(status.devices)} CUDA device(s)"
        )
    return gpu(index)


def backend_named(device: str) -> Backend:
    """The backend that something saved was on, by the name of its `device`; the CPU if it is not there, with a warning.

    Raises:
        ConfigError: `device` is no name of a device.
    """
    try:
        return get_backend(device)
    except DeviceError as error:
        _warn_moved(device, str(error))
        return CPU


@functools.cache
def _warn_moved(device: str, problem: str) -> None:
    logger.warning("a model was on %s, but is put on the CPU: %s", device, problem)


class use_device(contextlib.AbstractContextManager["Backend"]):
    """Make `device` the default from here on; used as ``with use_device("cpu"):``, only inside the block.

    Raises: as :func:`get_backend`.

    >>> with gn.use_device("cpu") as backend:
    ...     gn.get_backend() is backend
    True
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
