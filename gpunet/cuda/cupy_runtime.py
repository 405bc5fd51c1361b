"""The CUDA kernels on an NVIDIA GPU, through CuPy; the only file that touches ``cupy.RawModule``."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import cupy
import numpy as np

from gpunet.cuda.runtime import Dim3
from gpunet.cuda.sources import Defines, Kernel, source_text

_NULL = np.uintp(0)
_STATIC_SHARED_LIMIT = 48 * 1024
"""More dynamic shared memory than this has to be asked for (CUDA C++ Programming Guide, compute capabilities)."""


class CupyRuntime:
    """Kernels on GPU number `index`."""

    def __init__(self, index: int) -> None:
        self.device = cupy.cuda.Device(index)

    def active(self) -> AbstractContextManager[Any]:
        return cast(AbstractContextManager[Any], self.device)  # CuPy remembers the one before by thread

    @property
    def hardware(self) -> str:
        name: bytes = cupy.cuda.runtime.getDeviceProperties(self.device.id)["name"]
        return name.decode()

    def compile(self, source: str, defines: Defines) -> _Module:
        options = ("--std=c++17", *(f"-D{name}={value}" for name, value in defines.items()))
        with self.device:
            module = cupy.RawModule(code=source_text(source), options=options)
            module.compile()
        return _Module(module)

    def launch(
        self, module: _Module, kernel: Kernel, grid: Dim3, block: Dim3, args: tuple[Any, ...], shared: int
    ) -> None:
        with self.device:
            function = module.function(kernel.name)
            if shared > _STATIC_SHARED_LIMIT and function.max_dynamic_shared_size_bytes < shared:
                function.max_dynamic_shared_size_bytes = shared
            function(grid, block, tuple(map(_argument, args)), shared_mem=shared)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        return _Graph(self.device, step)

    def synchronize(self) -> None:
        self.device.synchronize()


def _argument(arg: Any) -> Any:
    """`arg` as CuPy takes it: a struct is a NumPy array of one element, which goes in by value."""
    if arg is None:
        return _NULL
    return np.asarray(arg) if isinstance(arg, np.void) else arg


class _Module:
    """A compiled source; looking a function up in it costs as much as a launch, so that is done once."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._functions: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        if name not in self._functions:
            self._functions[name] = self._module.get_function(name)
        return self._functions[name]


def _give_back(device: Any, pool: Any) -> None:
    """Return the free memory of `pool` to the driver, which waits for work that uses it."""
    with device:  # a pool has a part for each device, and does this for the current one's
        pool.free_all_blocks()


class _Graph:
    """A step as a CUDA graph. The first call runs it as it is, the second captures it, and from then on it is replayed.

    The first run compiles what is not compiled yet and fills the graph's own memory pool, so that nothing has to be
    allocated from the driver during the capture. The pool is the graph's alone: a block that the step gave back is used
    again within the graph, but by nobody else. CuPy gives none of its memory back because a pool is dropped, so that is
    done here when the graph is.
    """

    def __init__(self, device: Any, step: Callable[[], None]) -> None:
        self._device, self._step = device, step
        self._pool = cupy.cuda.MemoryPool()
        weakref.finalize(self, _give_back, device, self._pool).atexit = False
        self._stream: Any = None
        self._graph: Any = None

    def __call__(self) -> None:
        with self._device:
            if self._stream is None:
                self._warm_up()
                return
            if self._graph is None:
                self._graph = self._capture()
            self._graph.launch(cupy.cuda.get_current_stream())

    def _warm_up(self) -> None:
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._device.synchronize()  # the new stream does not wait for the work before it
        with cupy.cuda.using_allocator(self._pool.malloc), self._stream:
            self._step()
        self._stream.synchronize()

    def _capture(self) -> Any:
        with cupy.cuda.using_allocator(self._pool.malloc), self._stream:
            self._stream.begin_capture()
            try:
                self._step()
            except BaseException:
                self._abort()
                raise
            return self._stream.end_capture()

    def _abort(self) -> None:
        try:
            self._stream.end_capture()
        except Exception:  # the capture is already invalid: the step's own exception says why
            self._stream = None
