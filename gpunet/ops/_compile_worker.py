"""A process of :mod:`gpunet.ops._compile_together`: compiles one kernel after another for its parent.

It reads pickles, ``(module, name, types of the arguments)``, from stdin, and answers each by a byte on stdout: ``1`` if
the kernel is in the cache now, else ``0``. When stdin ends, the parent has ended: so does this process, at once.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import signal
import sys
import threading
from typing import Any


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which then ends this process
    answers = os.dup(1)
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    calls: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(calls,), daemon=True).start()
    while True:
        answer = b"1" if _compile(*calls.get()) else b"0"
        try:
            os.write(answers, answer)
        except BrokenPipeError:  # the parent has ended, as the end of stdin would soon show
            os._exit(0)


def _read(calls: queue.SimpleQueue[tuple[str, str, Any]]) -> None:
    try:
        while True:
            calls.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(0)


def _compile(module: str, name: str, types: Any) -> bool:
    try:
        kernel: Any = getattr(importlib.import_module(module), name)
        kernel.compile(types)
        return bool(kernel._cache.has(types, kernel.targetctx))
    except Exception:  # the parent meets it, too, when it calls the kernel
        return False


if __name__ == "__main__":
    main()
