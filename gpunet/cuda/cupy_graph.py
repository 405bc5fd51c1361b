"""A step as a CUDA graph, through CuPy."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic

import cupy

from gpunet.backend import Result
from gpunet.errors import DeviceMemoryError

Active = AbstractContextManager[Any]


class Graph(Generic[Result]):
    """A step as a CUDA graph. The first call runs it as it is, the second captures it, and from then on it is replayed.

    The first run compiles what is not compiled yet and fills the graph's own memory pool, so that nothing has to be
    allocated from the driver during the capture. The pool is the graph's alone: a block that the step gave back is used
    again within the graph, but by nobody else. CuPy gives none of its memory back because a pool is dropped, so that is
    done here when the graph is.

    If the memory does not suffice, all that CuPy holds unused is returned to the driver. A capture cannot go on after
    that: the step runs as it is instead, and is captured by the next call.

    Args:
        device: CuPy's, on which the step runs.
        active: makes it current, and an error of CuPy's about memory one of gpunet's.
    """

    def __init__(self, device: Any, active: Callable[[], Active], step: Callable[[], Result]) -> None:
        self._device, self._active, self._step = device, active, step
        self._capturing = _Flag()
        self._pool = cupy.cuda.MemoryPool(functools.partial(_from_driver, self._capturing))
        self._results: list[Result] = []  # that of the last run of the step
        weakref.finalize(self, _give_back, device, self._pool, self._results).atexit = False
        self._stream: Any = None
        self._graph: Any = None
        self._captures = 0

    def __call__(self) -> Result:
        with self._active():
            if self._stream is None:
                self._warm_up()
            elif self._graph is None and not self._capture():
                self._stream = None
                self._give_unused_back()
                self._warm_up()
            else:
                self._graph.launch(cupy.cuda.get_current_stream())
        return self._results[0]

    def _run(self) -> None:
        self._results.clear()
        self._results.append(self._step())

    def _warm_up(self) -> None:
        stream = cupy.cuda.Stream(non_blocking=True)
        self._device.synchronize()  # the new stream does not wait for the work before it
        with cupy.cuda.using_allocator(self._malloc), stream:
            self._run()
        stream.synchronize()
        self._stream = stream

    def _malloc(self, size: int) -> Any:
        try:
            return self._pool.malloc(size)
        except cupy.cuda.memory.OutOfMemoryError:
            if self._capturing:
                raise
        self._give_unused_back()
        return self._pool.malloc(size)

    def _give_unused_back(self) -> None:
        self._pool.free_all_blocks()
        cupy.get_default_memory_pool().free_all_blocks()

    def _capture(self) -> bool:
        """Capture the step; False if the memory does not suffice, for the first time."""
        self._captures += 1
        try:
            self._graph = self._record()
        except DeviceMemoryError:
            if self._captures > 1:
                raise
            return False
        return True

    def _record(self) -> Any:
        with self._active(), cupy.cuda.using_allocator(self._malloc), self._stream:
            self._stream.begin_capture()
            self._capturing.set = True
            try:
                self._run()
            except BaseException:
                self._abort()
                raise
            finally:
                self._capturing.set = False
            return self._stream.end_capture()

    def _abort(self) -> None:
        try:
            self._stream.end_capture()
        except Exception:  # the capture is already invalid: the step's own exception says why
            self._stream = None


class _Flag:
    """A boolean that two objects share."""

    set = False

    def __bool__(self) -> bool:
        return self.set


def _from_driver(capturing: _Flag, size: int) -> Any:
    """New memory for a pool.

    If there is none left, a pool gives its unused blocks back and asks again. During a capture it must not: those are
    what the kernels captured so far compute in.
    """
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if capturing and error.status == cupy.cuda.runtime.errorMemoryAllocation:
            raise cupy.cuda.memory.OutOfMemoryError(size, -1) from None
        raise


_in_use: list[tuple[Any, Any]] = []
"""Devices and pools of dropped graphs of which somebody still holds an array."""


def _give_back(device: Any, pool: Any, results: list[Any]) -> None:
    """Return the memory of the `pool` of a dropped graph to the driver, which waits for work that uses it."""
    results.clear()
    _in_use.append((device, pool))
    free_unused()


def free_unused() -> None:
    """Return the memory of dropped graphs to the driver, but for what somebody still holds an array of."""
    pools = list(_in_use)
    _in_use.clear()
    for owner, one in pools:
        with owner:  # a pool has a part for each device, and this concerns the current one's
            one.free_all_blocks()
            if one.total_bytes():
                _in_use.append((owner, one))
