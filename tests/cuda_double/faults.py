"""Planted faults: ``python -m tests.cuda_double.faults NAME``, on the double, ends with a report of that fault.

Some calls fail and some do not, as on a GPU; either way the fault is in the report.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from gpunet import cuda
from gpunet.cuda import sources
from gpunet.cuda.backend import gpu

_kept: list[Any] = []


def _array(size: int = 32) -> Any:
    """Zeros in an allocation of their own, which is freed with them."""
    memory = cupy.cuda.MemoryPointer(cupy.cuda.Memory(4 * size), 0)
    array = cupy.ndarray(size, np.float32, memory)
    array.data.memset(0, array.nbytes)
    return array


def _dangling() -> Any:
    """An array in memory that was freed."""
    array = _array()
    view = cupy.cuda.UnownedMemory(array.data.ptr, array.nbytes, None)
    return cupy.ndarray(array.shape, array.dtype, cupy.cuda.MemoryPointer(view, 0))


def _relu(x: Any, y: Any, *, n: int | None = None, grid: Any = 1, block: int = 32, device: int = 0) -> None:
    """A launch that gpunet's own checks do not see."""
    backend, defines = gpu(device), {"REAL": "float"}
    module, kernel = backend.module("activation", defines), cuda.kernels("activation", defines)["relu"]
    grid = (*(grid if isinstance(grid, tuple) else (grid,)), 1, 1)[:3]
    backend.runtime.launch(module, kernel, grid, (block, 1, 1), (x, y, np.int32(x.size if n is None else n)), 0)


def _function() -> Any:
    """relu, of a module that is loaded on the current device and on no other."""
    code, _ = cupy.cuda.compiler.compile_using_nvrtc(sources.source_text("activation"), ("--std=c++17", "-DREAL=float"))
    module = cupy.cuda.function.Module()
    module.load(code)
    return module.get_function("relu")


def _capture(step: Callable[[], None]) -> Any:
    """A graph of `step`; None if it cannot be captured."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with contextlib.suppress(Exception):
            step()
        with contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
            return stream.end_capture()
    return None


def nothing() -> None:
    """No fault: eager and captured launches, copies, two devices, and all is freed."""
    x, y = _array(), _array()
    x[...] = cupy.asarray(np.arange(-16, 16, dtype=np.float32))
    _relu(x, y)
    np.testing.assert_array_equal(y.get(), np.maximum(np.arange(-16, 16), 0))
    graph = _capture(lambda: _relu(x, y))
    y.fill(9)
    assert (y.get() == 9).all(), "what is captured is not run"
    x.fill(-1)
    graph.launch()
    assert (y.get() == 0).all()
    with cupy.cuda.Device(1):
        z = cupy.zeros(3, np.float32)
        assert z.device.id == 1
        _relu(z, z, device=1)


def too_much_memory() -> None:
    """Not a fault to be reported: CuPy says it."""
    from tests.cuda_double.library import limit_memory

    limit_memory(2**20)
    x = cupy.empty(2**19, np.uint8)
    try:
        cupy.empty(2**20, np.uint8)
    except cupy.cuda.memory.OutOfMemoryError:
        assert x.nbytes == 2**19
        return
    raise AssertionError("there is more memory than there is")


def use_after_free() -> None:
    _relu(_dangling(), _array())


def copy_after_free() -> None:
    _dangling().get()


def replay_after_free() -> None:
    """The arrays live until the capture is over, but not until the replay."""
    arrays = [_array(), _array()]
    graph = _capture(lambda: _relu(*arrays))
    arrays.clear()
    graph.launch()


def free_twice() -> None:
    pointer = cupy.cuda.runtime.malloc(512)
    cupy.cuda.runtime.free(pointer)
    cupy.cuda.runtime.free(pointer)


def read_beyond_the_end() -> None:
    _relu(_array(), _array(4096), n=4096, grid=128)


def write_beyond_the_end() -> None:
    x, stream = _array(), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.runtime.memsetAsync(x.data.ptr, 0, 129, stream.ptr)


def use_of_a_destroyed_stream() -> None:
    x = _array()
    cupy.cuda.runtime.memsetAsync(x.data.ptr, 0, 128, cupy.cuda.Stream(non_blocking=True).ptr)


def copy_in_a_capture() -> None:
    x, y = _array(), np.empty(32, np.float32)
    to_host = cupy.cuda.runtime.memcpyDeviceToHost
    pointers = y.ctypes.data, x.data.ptr
    _capture(lambda: cupy.cuda.runtime.memcpyAsync(*pointers, 128, to_host, cupy.cuda.get_current_stream().ptr))


def copy_beside_a_capture() -> None:
    x, y = _array(), np.empty(32, np.float32)
    _capture(lambda: cupy.cuda.runtime.memcpy(y.ctypes.data, x.data.ptr, 128, cupy.cuda.runtime.memcpyDeviceToHost))


def synchronisation_in_a_capture() -> None:
    assert _capture(gpu(0).synchronize) is None


def waiting_for_the_captured_stream() -> None:
    assert _capture(lambda: cupy.cuda.get_current_stream().synchronize()) is None


def launch_beside_a_capture() -> None:
    x = _array()

    def step() -> None:
        with cupy.cuda.Stream.null:
            _relu(x, x)

    _capture(step)


def allocation_in_a_strict_capture() -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream, contextlib.suppress(cupy.cuda.runtime.CUDARuntimeError):
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeGlobal)
        try:
            cupy.cuda.runtime.malloc(512)
        finally:
            stream.end_capture()


def memory_of_another_device() -> None:
    _relu(_array(), _array(), device=1)


def function_of_another_device() -> None:
    x, function = _array(), _function()
    with cupy.cuda.Device(1):
        function((1,), (32,), (x, x, np.int32(32)))


def stream_of_another_device() -> None:
    with cupy.cuda.Device(1):
        stream = cupy.cuda.Stream(non_blocking=True)
    x = _array()
    _function()((1,), (32,), (x, x, np.int32(32)), 0, stream)


def event_of_another_device() -> None:
    with cupy.cuda.Device(1):
        event = cupy.cuda.Event()
    cupy.cuda.runtime.eventRecord(event.ptr, cupy.cuda.Stream.null.ptr)


def graph_of_another_device() -> None:
    x = _array()
    graph = _capture(lambda: x.data.memset_async(0, x.nbytes, cupy.cuda.get_current_stream()))
    with cupy.cuda.Device(1):
        graph.launch(cupy.cuda.Stream.null)


def wrong_argument_size() -> None:
    """gpunet's reading of a signature and the compiler's differ."""
    sources._TYPES["int"] = np.int64  # type: ignore[assignment]
    x = _array()
    _relu(x, x)


def illegal_grid() -> None:
    x = _array()
    _relu(x, x, grid=(1, 65536))


def illegal_block() -> None:
    x = _array()
    _relu(x, x, block=2048)


def too_much_shared_memory() -> None:
    x = _array()
    _function()((1,), (32,), (x, x, np.int32(32)), 48 * 1024 + 1)


def leaked_memory() -> None:
    _kept.append(_array())


if __name__ == "__main__":
    with contextlib.suppress(RuntimeError):  # what CUDA's errors are; the report is what counts
        globals()[sys.argv[1]]()
