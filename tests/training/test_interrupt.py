"""Signals that end a training: what is said of them, whatever the process is doing."""

from __future__ import annotations

import io
import logging
import signal
import time
from typing import Any

from gpunet.training.interrupt import Interrupts


class _Raw(io.RawIOBase):
    """Keeps what is written to it, and sends a signal in the middle of the first write."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        first, self.written = not self.written, self.written + bytes(data)
        if first:
            signal.raise_signal(signal.SIGINT)
        return len(data)


class _Handler(logging.StreamHandler[io.TextIOWrapper]):
    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        self.failed = True


def test_a_signal_while_a_message_is_being_written() -> None:
    """Python's buffered streams cannot be written to by a signal handler that interrupts their own write."""
    raw = _Raw()
    handler = _Handler(io.TextIOWrapper(io.BufferedWriter(raw)))
    logger = logging.getLogger("gpunet")
    logger.addHandler(handler)
    try:
        with Interrupts() as interrupts:
            logger.warning("epoch 1")
        assert interrupts.number == signal.SIGINT
        deadline = time.monotonic() + 10
        while b"once more" not in raw.written and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        logger.removeHandler(handler)
    assert not handler.failed
    assert raw.written == b"epoch 1\nSIGINT: stopping after this step; once more stops at once\n"
