"""Whether this machine can use CUDA, and what is missing where it cannot."""

from __future__ import annotations

import functools
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

from gpunet.cuda.explain import import_problem


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
    except Exception as error:  # a broken CuPy installation raises anything, from OSError to RuntimeError
        return CudaStatus(import_problem(error))
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


def nvidia_driver() -> bool:
    """Whether this machine has NVIDIA's driver, so that a GPU that cannot be used is worth a warning."""
    return Path("/proc/driver/nvidia").exists() or any(map(find_library, ("cuda", "nvcuda")))


def _cuda_version(number: int) -> str:
    """``12.8`` for 12080."""
    return f"{number // 1000}.{number % 1000 // 10}"
