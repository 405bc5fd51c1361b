"""Reads whose memory is bounded: by what a file declares, and by what this machine has."""

from __future__ import annotations

from typing import Protocol

from gpunet.errors import DataError
from gpunet.machine import available_memory

_CHUNK = 1 << 20


class Stream(Protocol):
    """What is read from: a file, or the decompressed content of one."""

    def read(self, size: int, /) -> bytes: ...


def read_into(data: bytearray, stream: Stream, size: int) -> None:
    """Append bytes of `stream` to `data` until it has `size`, or until the stream ends.

    Memory grows with what is there, not with what is asked for.
    """
    while len(data) < size:
        chunk = stream.read(min(_CHUNK, size - len(data)))
        if not chunk:
            return
        data += chunk


def check_memory(size: int, what: str) -> None:
    """Raise DataError if `what`, `size` bytes, does not fit into the memory that this machine has left."""
    available = available_memory()
    if available is not None and size > available:
        raise DataError(
            f"{what} takes {size} bytes of memory, but this machine has {available} left: give a smaller data set"
        )
