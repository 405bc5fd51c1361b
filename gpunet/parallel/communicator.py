"""What the ranks of a training say to each other.

A rank is one of several processes that train one model together. All of them call the same methods in the same order,
and each call returns on a rank once all have made it.
"""

from __future__ import annotations

import atexit
import pickle
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from gpunet.backend import Array, backend_of
from gpunet.errors import GpunetError
from gpunet.parallel.watchdog import Watchdog, timeout

if TYPE_CHECKING:
    from mpi4py import MPI

Value = TypeVar("Value")

Wait = Callable[[], None]
"""Returns once a message has arrived and was sent."""


class Communicator(Protocol):
    """A number of ranks, of which this process is one.

    Arrays are C-contiguous, of the same shape and dtype on all ranks, and on the device of each.

    Attributes:
        rank, size: the number of this rank, from 0, and of all ranks.
        local_rank, local_size: the same among the ranks of this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def all_gather(self, rows: Array) -> None:
        """Complete `rows`, (k * size, ...), of which each rank has filled its k rows, from ``k * rank`` on."""

    def all_to_all(self, send: Array, receive: Array, rows: Sequence[int]) -> Wait:
        """Send part j of `send`, (size * n,), to rank j, whose part becomes row `rows[j]` of `receive`, (m, n).

        Until the returned function was called, `send` and these rows must be left alone. Before that, more may be sent.
        """

    def exchange(self, value: Value) -> list[Value]:
        """The values, small objects that can be pickled, of all ranks in order."""

    def broadcast(self, value: Value) -> Value:
        """That of rank 0."""

    def settle(self, code: int, patience: float | None = None) -> list[int] | None:
        """At the end of the work, the exit codes of all ranks; None if not all end within `patience` seconds."""

    def abort_at_exit(self, code: int) -> None:
        """End all ranks when this process exits."""


def no_wait() -> None:
    """The :data:`Wait` of what is done, or queued on the device."""


class Serial:
    """The only rank."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def all_gather(self, rows: Array) -> None:
        pass

    def all_to_all(self, send: Array, receive: Array, rows: Sequence[int]) -> Wait:
        backend_of(receive).assign(receive[rows[0]], send)
        return no_wait

    def exchange(self, value: Value) -> list[Value]:
        return [value]

    def broadcast(self, value: Value) -> Value:
        return value

    def settle(self, code: int, patience: float | None = None) -> list[int] | None:
        return [code]

    def abort_at_exit(self, code: int) -> None:
        pass


class MpiCommunicator:
    """Ranks of MPI, through mpi4py. Arrays of a GPU go through NCCL, or else through the host.

    A rank that waits for the others longer than :func:`gpunet.parallel.watchdog.timeout` says ends.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        from mpi4py import MPI

        self._comm, self._ends = comm.Dup(), comm.Dup()
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        local = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.Get_rank(), local.Get_size()
        local.Free()
        self._collectives: dict[str, Any] = {}
        self._waiting = Watchdog(self.rank, timeout()).waiting

    def _of_device(self, array: Array) -> Any:
        """The collectives of the array's device, or None."""
        backend = backend_of(array)
        if backend.device not in self._collectives:
            self._collectives[backend.device] = backend.collectives(self.rank, self.size, self.broadcast)
        return self._collectives[backend.device]

    def all_gather(self, rows: Array) -> None:
        device = self._of_device(rows)
        if device is not None:
            device.all_gather(rows)
            return
        from mpi4py import MPI

        host = backend_of(rows).to_numpy(rows)
        with self._waiting():
            self._comm.Allgather(MPI.IN_PLACE, host)
        if host is not rows:
            backend_of(rows).assign(rows, host)

    def all_to_all(self, send: Array, receive: Array, rows: Sequence[int]) -> Wait:
        device = self._of_device(send)
        if device is not None:
            device.all_to_all(send, receive, rows)
            return no_wait
        backend, length = backend_of(send), receive.shape[1]
        counts, places = [length] * self.size, [row * length for row in rows]
        host, found = backend.to_numpy(send), backend.to_numpy(receive)
        sent = [host, (counts, [index * length for index in range(self.size)])]
        request = self._comm.Ialltoallv(sent, [found, (counts, places)])

        def wait() -> None:
            with self._waiting():
                request.Wait()
            if found is not receive:
                for row in rows:
                    backend.assign(receive[row], found[row])

        return wait

    def exchange(self, value: Value) -> list[Value]:
        with self._waiting():
            return self._comm.allgather(value)

    def broadcast(self, value: Value) -> Value:
        found: Value = self._comm.bcast(value)
        return found

    def settle(self, code: int, patience: float | None = None) -> list[int] | None:
        codes = np.zeros(self.size, np.int64)
        request = self._ends.Iallgather(np.array([code], np.int64), codes)
        limit = None if patience is None else time.monotonic() + patience
        while not request.Test():
            if limit is not None and time.monotonic() > limit:
                return None
            time.sleep(0.01)  # not the busy waiting of MPI: the others may need the core
        return codes.tolist()

    def abort_at_exit(self, code: int) -> None:
        atexit.register(self._comm.Abort, code)


def from_first(communicator: Communicator, make: Callable[[], Value]) -> Value:
    """What `make` returns on rank 0, the only one that calls it; its exception is raised on all ranks."""
    found: tuple[Any, Exception | None] = None, None
    if communicator.rank == 0:
        try:
            found = make(), None
        except Exception as error:
            communicator.broadcast((None, _portable(error)))
            raise
    value, problem = communicator.broadcast(found)
    if problem is not None:
        raise problem
    result: Value = value
    return result


def first_then_others(communicator: Communicator, make: Callable[[], Value]) -> Value:
    """What `make` returns on this rank; the others call it after rank 0, which may have stored something for them."""
    found: list[Value] = []
    from_first(communicator, lambda: found.append(make()))
    return found[0] if found else make()


def _portable(error: Exception) -> Exception:
    """`error`, or if it cannot be pickled, one with its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        return GpunetError(f"{type(error).__name__}: {error}")
    return error
