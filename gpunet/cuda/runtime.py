"""What runs CUDA kernels: a compiler, a launcher and a way to capture a sequence of launches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from gpunet.backend import Result
from gpunet.cuda.sources import Defines, Kernel

Dim3 = tuple[int, int, int]


class Runtime(Protocol):
    """Compiles and launches the sources on one device."""

    @property
    def hardware(self) -> str:
        """The name of the processor."""

    def active(self) -> AbstractContextManager[Any]:
        """Inside the block, the device is the current one of the array module; then it is the one before again.

        Too little memory is a :class:`~gpunet.errors.DeviceMemoryError`.
        """

    def compile(self, source: str, defines: Defines) -> Any:
        """A handle of the compiled source; the caller keeps it.

        Raises:
            DeviceError: it cannot be compiled or loaded here; the message says what is missing.
        """

    def launch(self, module: Any, kernel: Kernel, grid: Dim3, block: Dim3, args: tuple[Any, ...], shared: int) -> None:
        """Start a kernel. `args` fit its parameters: arrays, None for a null pointer, NumPy scalars."""

    def capture(self, step: Callable[[], Result]) -> Callable[[], Result]:
        """`step`, which may only launch kernels and allocate, as one graph: see :meth:`gpunet.Backend.capture`."""

    def memory_left(self) -> int | None:
        """Bytes that are free on the device; None if unknown."""

    def synchronize(self) -> None:
        """Wait for all work on the device."""
