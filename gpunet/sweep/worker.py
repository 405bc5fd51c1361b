"""A worker process of :class:`gpunet.sweep.pool.ProcessExecutor`: calls one function after another for its parent.

They exchange pickles: ``(function, args, kwargs)`` on stdin; ``("ready", None)``, ``("done", result)`` and
``("raised", exception)`` on stdout. When stdin ends, the parent has ended, for whatever reason: the worker then stops
at once, even in the middle of a step, and its trial is resumed later.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
from typing import IO, Any


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which then ends this process
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(calls,), daemon=True).start()
    _tell(answers, "ready", None)
    while True:
        function, args, kwargs = calls.get()
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            _tell(answers, "raised", error)
        else:
            _tell(answers, "done", result)


def _read(calls: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            calls.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(0)


def _tell(answers: IO[bytes], name: str, value: object) -> None:
    try:
        answers.write(pickle.dumps((name, value)))
        answers.flush()
    except BrokenPipeError:  # the parent has ended, as the end of stdin would soon show
        os._exit(0)


if __name__ == "__main__":
    main()
