"""The CUDA kernels on an NVIDIA GPU, through CuPy; the only file that touches ``cupy.RawModule``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import cupy
import numpy as np

from gpunet.backend import Result
from gpunet.cuda.cupy_graph import Graph
from gpunet.cuda.explain import compile_problem
from gpunet.cuda.runtime import Dim3
from gpunet.cuda.sources import Defines, Kernel, source_text
from gpunet.errors import DeviceError, DeviceMemoryError

_NULL = np.uintp(0)
_STATIC_SHARED_LIMIT = 48 * 1024
"""More dynamic shared memory than this has to be asked for (CUDA C++ Programming Guide, compute capabilities)."""
_OUT_OF_MEMORY = 2
"""``cudaErrorMemoryAllocation`` and ``CUDA_ERROR_OUT_OF_MEMORY``."""


class CupyRuntime:
    """Kernels on GPU number `index`."""

    def __init__(self, index: int) -> None:
        self.device = cupy.cuda.Device(index)

    def active(self) -> AbstractContextManager[Any]:
        return _Active(self.device)

    @property
    def hardware(self) -> str:
        name: bytes = cupy.cuda.runtime.getDeviceProperties(self.device.id)["name"]
        return name.decode()

    def memory_left(self) -> int | None:
        with self.active():
            return int(cupy.cuda.runtime.memGetInfo()[0])

    def compile(self, source: str, defines: Defines) -> _Module:
        options = ("--std=c++17", *(f"-D{name}={value}" for name, value in defines.items()))
        with self.active():
            module = cupy.RawModule(code=source_text(source), options=options)
            try:
                module.compile()
            except Exception as error:  # of many kinds
                problem = compile_problem(error)
                if problem is None:
                    raise
                raise DeviceError(f"cuda:{self.device.id} cannot run {source}.cu: {problem}") from error
        return _Module(module)

    def launch(
        self, module: _Module, kernel: Kernel, grid: Dim3, block: Dim3, args: tuple[Any, ...], shared: int
    ) -> None:
        with self.active():
            function = module.function(kernel.name)
            if shared > _STATIC_SHARED_LIMIT and function.max_dynamic_shared_size_bytes < shared:
                function.max_dynamic_shared_size_bytes = shared
            function(grid, block, tuple(map(_argument, args)), shared_mem=shared)

    def capture(self, step: Callable[[], Result]) -> Callable[[], Result]:
        return Graph(self.device, self.active, step)

    def synchronize(self) -> None:
        self.device.synchronize()


def _argument(arg: Any) -> Any:
    """`arg` as CuPy takes it: a struct is a NumPy array of one element, which goes in by value."""
    if arg is None:
        return _NULL
    return np.asarray(arg) if isinstance(arg, np.void) else arg


class _Active:
    """A device as the current one; see :meth:`gpunet.cuda.Runtime.active`."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __enter__(self) -> None:
        self._device.__enter__()  # CuPy remembers the one before, for each thread

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is not None and _is_out_of_memory(error):
                free, total = cupy.cuda.runtime.memGetInfo()
                name = f"cuda:{self._device.id}"
                raise DeviceMemoryError(name, getattr(error, "_size", None), free, total) from None
        finally:
            self._device.__exit__(kind, error, traceback)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)):
        return bool(error.status == _OUT_OF_MEMORY)
    return isinstance(error, cupy.cuda.memory.OutOfMemoryError)


class _Module:
    """A compiled source; looking a function up in it costs as much as a launch, so that is done once."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._functions: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        return self._functions[name]
