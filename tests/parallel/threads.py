"""Ranks as threads of this process, of which one runs at a time: all else is as with processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpunet.backend import Array, backend_of
from gpunet.parallel.communicator import Wait, no_wait

PATIENCE = 60.0


class Meeting:
    """What the threads share: the baton of the one that runs, and what they have brought to the current call."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.baton = threading.Lock()
        self.barrier = threading.Barrier(size)
        self.brought: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.brought[rank] = value
        self.wait()
        found = list(self.brought)
        self.wait()
        return found

    def wait(self) -> None:
        self.baton.release()
        try:
            self.barrier.wait(PATIENCE)
        finally:
            self.baton.acquire()


class ThreadCommunicator:
    """A rank of a :class:`Meeting`. Arrays go through the host."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size = rank, meeting.size
        self.local_rank, self.local_size = rank, meeting.size
        self._meeting = meeting
        self.sent = 0
        """Bytes that this rank has sent to others."""

    def exchange(self, value: Any) -> list[Any]:
        return self._meeting.exchange(self.rank, value)

    def broadcast(self, value: Any) -> Any:
        return self.exchange(value)[0]

    def all_gather(self, rows: Array) -> None:
        backend = backend_of(rows)
        share = len(rows) // self.size
        assert share * self.size == len(rows)
        mine = backend.to_numpy(rows[self.rank * share : (self.rank + 1) * share]).copy()
        backend.assign(rows, np.concatenate(self.exchange(mine)))
        self.sent += (self.size - 1) * mine.nbytes

    def all_to_all(self, send: Array, receive: Array, rows: Sequence[int]) -> Wait:
        backend = backend_of(send)
        parts = np.split(backend.to_numpy(send).copy(), self.size)
        for row, each in zip(rows, self.exchange(parts), strict=True):
            backend.assign(receive[row], each[self.rank])
        self.sent += (self.size - 1) * parts[0].nbytes
        return no_wait

    def settle(self, code: int, patience: float | None = None) -> list[int] | None:
        return self.exchange(code)

    def abort_at_exit(self, code: int) -> None:
        raise AssertionError("threads are not aborted")


def run_ranks(size: int, work: Callable[[ThreadCommunicator], Any]) -> list[Any]:
    """What `work` returns, or the exception that it raises, on each of `size` ranks."""
    meeting = Meeting(size)
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        with meeting.baton:
            try:
                found[rank] = work(ThreadCommunicator(rank, meeting))
            except BaseException as error:
                found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    return found
