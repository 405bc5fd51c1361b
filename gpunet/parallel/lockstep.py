"""Shards of a step that wait for each other, wherever a layer needs to know of the whole batch.

The forward and backward passes of a shard are plain function calls, which cannot be left half-way and taken up again.
So each shard of a rank has a thread, of which exactly one runs at a time, in the order of the shards: a thread is used
as a coroutine. All else, messages to other ranks included, is done by the thread that calls :meth:`Lockstep.run`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Any

from gpunet.backend import Array, Backend, Gather
from gpunet.errors import ConfigError
from gpunet.parallel.communicator import Communicator

Work = Callable[[int, Gather], None]
"""Takes the number of a shard among those of this rank, and where it meets the others."""


class Lockstep:
    """Advances this rank's shards of `count` together. With one shard a rank, no threads are needed."""

    def __init__(self, communicator: Communicator, backend: Backend, count: int) -> None:
        self._communicator, self._backend, self._count = communicator, backend, count
        self._local = count // communicator.size

    def run(self, work: Work, turn: Callable[[int], None]) -> None:
        """Call `work` for each shard of this rank; `turn` is told, each time, which of them goes on.

        An exception of a shard ends the others, and is raised here.

        Raises:
            ConfigError: the shards do not call `gather` alike.
        """
        if self._local == 1:
            turn(0)
            work(0, lambda part: self._of_all([part]))
            return
        threads = _kernel_threads(self._backend)
        shards: list[_Shard] = []
        try:
            for index in range(self._local):
                shards.append(_Shard(index, work, self._backend, threads))
            everyone: Array | None = None
            while True:
                asked: list[Array | None] = []
                for index, shard in enumerate(shards):
                    turn(index)
                    asked.append(shard.advance(everyone))
                parts = [part for part in asked if part is not None]
                if not parts:
                    return
                _check_alike(asked)
                everyone = self._of_all(parts)
        finally:
            for shard in shards:
                shard.end()

    def _of_all(self, parts: list[Array]) -> Array:
        """What the shards of all ranks say, in their order, if those of this rank say `parts`."""
        backend, first = self._backend, self._communicator.rank * self._local
        rows = backend.empty((self._count, *parts[0].shape), parts[0].dtype)
        for index, part in enumerate(parts):
            backend.assign(rows[first + index], part)
        self._communicator.all_gather(rows)
        return rows


def _check_alike(asked: list[Array | None]) -> None:
    kinds = ["is at its end" if part is None else f"says {part.dtype} {tuple(part.shape)}" for part in asked]
    for kind in kinds:
        if kind != kinds[0]:
            raise ConfigError(
                f"parts of a batch do not come by the same layers: where one {kinds[0]}, another {kind}. A model whose "
                "layers depend on its input cannot be trained with synchronised batch norm: leave it out"
            )


class _Ended(BaseException):
    """In the thread of a shard: the others will not come. No Exception, which a layer might catch."""


class _Shard:
    """A shard's work, on a thread that runs only while :meth:`advance` waits for it."""

    def __init__(self, index: int, work: Work, backend: Backend, threads: int | None) -> None:
        self._asked: SimpleQueue[Any] = SimpleQueue()
        self._replies: SimpleQueue[Any] = SimpleQueue()

        def run() -> None:
            try:
                self._reply()
                _use_kernel_threads(threads)
                with backend.active():
                    work(index, self._gather)
            except _Ended:
                pass
            except BaseException as error:
                self._asked.put(error)
            else:
                self._asked.put(None)

        # In a context of its own, with what is set in this one, such as the precision.
        self._thread = Thread(target=copy_context().run, args=(run,), name=f"gpunet-shard-{index}", daemon=True)
        self._thread.start()

    def advance(self, everyone: Array | None) -> Array | None:
        """Go on with the reply `everyone` until the next call of `gather`: what it says; None at the end."""
        self._replies.put(everyone)
        found = self._asked.get()
        if isinstance(found, BaseException):
            raise found
        said: Array | None = found
        return said

    def end(self) -> None:
        """End the thread, wherever it is."""
        self._replies.put(_Ended())
        self._thread.join()

    def _gather(self, part: Array) -> Array:
        self._asked.put(part)
        everyone: Array = self._reply()
        return everyone

    def _reply(self) -> Any:
        found = self._replies.get()
        if isinstance(found, _Ended):
            raise found
        return found


def _kernel_threads(backend: Backend) -> int | None:
    """The number of threads that kernels use in this thread; None: not known to Numba yet, or not its own."""
    numba: Any = sys.modules.get("numba")
    return None if numba is None or backend.implementation != "cpu" else numba.get_num_threads()


def _use_kernel_threads(count: int | None) -> None:
    if count is not None:
        numba: Any = sys.modules["numba"]
        numba.set_num_threads(count)
