"""What gpunet's graphs use of CuPy, on a driver with little memory; pools keep their memory as CuPy's do."""

from __future__ import annotations

import contextlib
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

ERROR_MEMORY_ALLOCATION = 2


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"error {status}")
        self.status = status


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes")
        self._size = size


class FakeCupy(types.ModuleType):
    """The module, and its driver: `limit` bytes, of which `used` are taken; `capturing` while a stream captures."""

    def __init__(self, limit: int) -> None:
        super().__init__("cupy")
        self.limit, self.used, self.capturing, self.current, self.captured = limit, 0, False, 0, 0
        self.freed_in_capture = 0
        self.default = MemoryPool(self, self._memory)
        self.allocator: Callable[[int], Any] = self.default.malloc
        self.replays = 0
        self.cuda = types.SimpleNamespace(
            Device=lambda index: Device(self, index),
            Memory=self._memory,
            MemoryPointer=lambda memory, offset: memory,
            MemoryPool=lambda allocator: MemoryPool(self, allocator),
            Stream=lambda non_blocking: Stream(self),
            using_allocator=self._using,
            get_current_stream=lambda: None,
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            driver=types.SimpleNamespace(CUDADriverError=CUDARuntimeError),
            runtime=types.SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                errorMemoryAllocation=ERROR_MEMORY_ALLOCATION,
                memGetInfo=lambda: (self.limit - self.used, self.limit),
            ),
        )
        self.get_default_memory_pool = lambda: self.default

    def _memory(self, size: int) -> Memory:
        if self.used + size > self.limit:
            raise CUDARuntimeError(ERROR_MEMORY_ALLOCATION)
        self.used += size
        return Memory(self, size)

    @contextlib.contextmanager
    def _using(self, allocator: Callable[[int], Any]) -> Iterator[None]:
        before, self.allocator = self.allocator, allocator
        try:
            yield
        finally:
            self.allocator = before


class Memory:
    """Memory of the driver, until :meth:`free`."""

    def __init__(self, cupy: FakeCupy, size: int) -> None:
        self.cupy, self.size = cupy, size

    def free(self) -> None:
        self.cupy.used -= self.size
        self.cupy.freed_in_capture += self.cupy.capturing


class Block:
    """Memory from a pool, to which it returns when the last reference to it goes."""

    def __init__(self, pool: MemoryPool, memory: Memory) -> None:
        weakref.finalize(self, pool.unused.append, memory)


class MemoryPool:
    """Keeps what it was given back, even when it is dropped itself; runs out as CuPy's does."""

    def __init__(self, cupy: FakeCupy, allocator: Callable[[int], Memory]) -> None:
        self.cupy, self.allocator = cupy, allocator
        self.unused: list[Memory] = []
        self.taken = 0

    def malloc(self, size: int) -> Block:
        for index, memory in enumerate(self.unused):
            if memory.size == size:
                return Block(self, self.unused.pop(index))
        for _ in range(2):
            try:
                block = Block(self, self.allocator(size))
                self.taken += size
                return block
            except CUDARuntimeError as error:
                if error.status != ERROR_MEMORY_ALLOCATION:
                    raise
                self.free_all_blocks()
        raise OutOfMemoryError(size, -1)

    def total_bytes(self) -> int:
        return self.taken

    def free_all_blocks(self) -> None:
        while self.unused:
            memory = self.unused.pop()
            self.taken -= memory.size
            memory.free()


class Device:
    def __init__(self, cupy: FakeCupy, index: int) -> None:
        self.cupy, self.id, self._before = cupy, index, [0]

    def __enter__(self) -> None:
        self._before.append(self.cupy.current)
        self.cupy.current = self.id

    def __exit__(self, *unused: object) -> None:
        self.cupy.current = self._before.pop()

    def synchronize(self) -> None:
        assert not self.cupy.capturing


class Stream(contextlib.AbstractContextManager["Stream"]):
    def __init__(self, cupy: FakeCupy) -> None:
        self.cupy = cupy

    def __exit__(self, *unused: object) -> None:
        pass

    def synchronize(self) -> None:
        assert not self.cupy.capturing

    def begin_capture(self) -> None:
        self.cupy.capturing = True

    def end_capture(self) -> Any:
        self.cupy.capturing = False

        def launch(stream: Any) -> None:
            self.cupy.replays += 1

        return types.SimpleNamespace(launch=launch)
