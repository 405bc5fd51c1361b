"""Arrays of several processes with a GPU each, through NCCL (https://docs.nvidia.com/deeplearning/nccl/user-guide)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpunet.backend import Array


class NcclCollectives:
    """The collectives of rank `rank` of `size`, queued on the current stream: see :class:`gpunet.backend.Collectives`.

    Args:
        nccl: ``cupy.cuda.nccl``.
        broadcast: hands on the identifier of the group that rank 0 makes.
        pointer, stream: the address of an array, and of the current stream.
    """

    def __init__(
        self,
        nccl: Any,
        rank: int,
        size: int,
        broadcast: Callable[[Any], Any],
        *,
        pointer: Callable[[Array], int],
        stream: Callable[[], int],
    ) -> None:
        self._nccl, self._rank, self._size = nccl, rank, size
        self._pointer, self._stream = pointer, stream
        identifier = broadcast(nccl.get_unique_id() if rank == 0 else None)
        self._communicator = nccl.NcclCommunicator(size, identifier, rank)

    def _type(self, array: Array) -> int:
        found: int = self._nccl.NCCL_FLOAT32 if array.dtype == "float32" else self._nccl.NCCL_FLOAT64
        return found

    def all_gather(self, rows: Array) -> None:
        count, first = rows.size // self._size, self._pointer(rows)
        mine = first + self._rank * count * rows.itemsize  # in place: where NCCL would put it
        self._communicator.allGather(mine, first, count, self._type(rows), self._stream())

    def all_to_all(self, send: Array, receive: Array, rows: Sequence[int]) -> None:
        count, kind, stream = receive.shape[1], self._type(send), self._stream()
        length = count * send.itemsize
        source, target = self._pointer(send), self._pointer(receive)
        self._nccl.groupStart()  # all at once: one after the other, each would wait for its peer
        for peer, row in enumerate(rows):
            self._communicator.send(source + peer * length, count, kind, peer, stream)
            self._communicator.recv(target + row * length, count, kind, peer, stream)
        self._nccl.groupEnd()
