"""Signals that end a training after the running step, so that its state can be saved."""

from __future__ import annotations

import _thread
import contextlib
import logging
import signal
import threading
from types import FrameType
from typing import Any

from gpunet.errors import Interrupted, raise_interrupted

logger = logging.getLogger("gpunet")

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C; the end of a container, or of the time of a SLURM job; a closed terminal."""


class Interrupts(contextlib.AbstractContextManager["Interrupts"]):
    """Inside the block, the first of :data:`SIGNALS` is noted in `number`; the second one raises Interrupted at once.

    Signals that are ignored (as by ``nohup``) or handled by the program stay so. Outside of the main thread, where
    Python handles no signals, nothing is changed.
    """

    number: int | None = None
    """The signal that has arrived."""

    def __enter__(self) -> Interrupts:
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name, None)  # SIGHUP is not on every system
                if number is not None and signal.getsignal(number) in _REPLACED:
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise Interrupted(number)
        self.number = number
        # From another thread: the signal may have come while this one was writing to the stream of the messages, and a
        # buffered stream refuses to be entered again. Not by a Thread, whose start takes a lock of all threads.
        with contextlib.suppress(RuntimeError):  # no more threads: what ends the training still says how to go on
            _thread.start_new_thread(_tell, (signal.Signals(number).name,))


def _tell(name: str) -> None:
    logger.warning("%s: stopping after this step; once more stops at once", name)


_REPLACED = (signal.SIG_DFL, signal.default_int_handler, raise_interrupted)
