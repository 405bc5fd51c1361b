"""What runs CUDA kernels: a compiler, a launcher and a way to capture a sequence of launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gpunet.cuda.sources import Defines, Kernel
from gpunet.errors import DeviceError

Dim3 = tuple[int, int, int]


class Runtime(Protocol):
    """Compiles and launches the sources on one device."""

    def compile(self, source: str, defines: Defines) -> Any:
        """A handle of the compiled source; the caller keeps it."""

    def launch(self, module: Any, kernel: Kernel, grid: Dim3, block: Dim3, args: tuple[Any, ...], shared: int) -> None:
        """Start a kernel. `args` fit its parameters: arrays, None for a null pointer, NumPy scalars."""

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """`step`, which may only launch kernels and allocate, as one graph: see :meth:`gpunet.Backend.capture`."""

    def synchronize(self) -> None:
        """Wait for all work on the device."""


_runtimes: dict[str, Runtime] = {}


def register_runtime(device: str, runtime: Runtime) -> None:
    """Let `runtime` run the kernels of arrays on `device`."""
    _runtimes[device] = runtime


def runtime_of(device: str) -> Runtime:
    """The runtime of a device.

    Raises:
        DeviceError: the device does not run CUDA kernels.
    """
    runtime = _runtimes.get(device)
    if runtime is None:
        name, _, index = device.partition(":")
        if name != "cuda":
            raise DeviceError(f"device {device!r} does not run CUDA kernels")
        from gpunet.cuda.cupy_runtime import CupyRuntime

        runtime = _runtimes[device] = CupyRuntime(int(index or 0))
    return runtime
