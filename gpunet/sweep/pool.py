"""The worker processes of a sweep, and their current trials."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpunet.errors import OutputError

_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(eq=False)
class Worker:
    """A process, and its current job."""

    number: int
    process: subprocess.Popen[str]
    job: Any = None
    """The job given to :meth:`Pool.start`; None while the worker is idle."""
    ready: bool = False
    """Whether it has reported that it can take jobs."""


@dataclass(frozen=True)
class Event:
    """A message from a worker: ``ready``, ``epoch``, ``warning``, ``done``, ``fatal``; ``gone``: its process has ended.

    ``gone`` comes with the ``reason``, and ``how``: ``killed`` by a signal, or ``ended``.
    """

    worker: Worker
    name: str
    facts: dict[str, Any]


class Pool(contextlib.AbstractContextManager["Pool"]):
    """`count` workers, each with `threads` threads; they end with the block, however this process ends.

    Args:
        log: a folder for the workers' stderr.
        lock: an open file whose lock the workers share, so that it is held until all of them have ended.
    """

    def __init__(self, count: int, threads: int, *, log: Path, lock: IO[str]) -> None:
        self.threads, self.log, self.lock = threads, log, lock
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.workers = [self._spawn(number) for number in range(1, count + 1)]

    def _spawn(self, number: int) -> Worker:
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(self.threads))}
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        path = self.log / f"worker-{number}.log"
        try:
            with path.open("a", encoding="utf-8") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "gpunet.sweep.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                    text=True,
                    encoding="utf-8",
                    pass_fds=(self.lock.fileno(),),
                    process_group=0,  # so that Ctrl-C does not reach them
                )
        except OSError as error:
            raise OutputError(f"cannot start a worker of the sweep: {error.strerror or error}") from error
        worker = Worker(number, process)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed in the meantime
            for line in worker.process.stdout:
                facts = json.loads(line)
                self._events.put(Event(worker, facts.pop("event"), facts))
        code = worker.process.wait()
        self._events.put(Event(worker, "gone", {"reason": _reason(code), "how": "killed" if code < 0 else "ended"}))

    def idle(self) -> Iterator[Worker]:
        """The workers that are ready and have no job."""
        return (worker for worker in self.workers if worker.ready and worker.job is None)

    def start(self, worker: Worker, job: Any, order: dict[str, Any]) -> None:
        """Give an idle worker a job."""
        assert worker.process.stdin is not None
        worker.job = job
        with contextlib.suppress(BrokenPipeError):  # it has ended, as its last event reports
            worker.process.stdin.write(json.dumps(order) + "\n")
            worker.process.stdin.flush()

    def event(self, timeout: float) -> Event | None:
        """The next event; None if there is none within `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def replace(self, worker: Worker) -> None:
        """Start a new process for a worker that has ended."""
        _close(worker)
        self.workers[self.workers.index(worker)] = self._spawn(worker.number)

    def __exit__(self, *exc_info: object) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
            _close(worker)


def _close(worker: Worker) -> None:
    for stream in (worker.process.stdin, worker.process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _reason(code: int) -> str:
    if code >= 0:
        return f"the worker process ended with code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"the worker process was killed by {name}{' (out of memory?)' if -code == signal.SIGKILL else ''}"
