"""Worker processes of this machine, as an executor that survives the death of any of them."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpunet.errors import OutputError

THREADS = ("NUMBA_NUMTHREADS", "OMP_NUMTHREADS", "OPENBLAS_NUMTHREADS", "MKL_NUMTHREADS")
"""Variables that limit the threads of a process."""


class WorkerLost(Exception):
    """The worker of a call has ended before the call.

    Args:
        reason: in words.
        how: ``killed`` by a signal, or ``ended``.
    """

    def __init__(self, reason: str, how: str = "killed") -> None:
        super().__init__(reason, how)
        self.reason, self.how = reason, how


@dataclass(eq=False)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    future: Future[Any] | None = None
    """Of its current call; None while it is idle."""
    ready: bool = False
    """Whether it has reported that it can take calls."""


class ProcessExecutor(Executor):
    """`count` processes, each with `threads` threads; they end with the ``with`` block, however this process ends.

    Unlike those of ``concurrent.futures.ProcessPoolExecutor``, the other calls go on when a process dies: its own call
    raises :class:`WorkerLost`, and a new process takes its place. If that cannot start, calls that wait and later ones
    raise OutputError.

    Args:
        log: a folder for the processes' stderr.
        lock: an open file whose lock the processes share, so that it is held until all of them have ended.
    """

    def __init__(self, count: int, threads: int, *, log: Path, lock: IO[str]) -> None:
        self.threads, self.log, self.lock = threads, log, lock
        self._calls: collections.deque[tuple[Future[Any], bytes]] = collections.deque()
        self._guard = threading.RLock()
        self._closed = False
        self._broken: OutputError | None = None
        self.workers: list[_Worker] = []
        try:
            for number in range(1, count + 1):
                self.workers.append(self._spawn(number))
        except OutputError:
            self.shutdown()
            raise

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn(*args, **kwargs)`` on the next idle process; all of it must be picklable."""
        future: Future[Any] = Future()
        with self._guard:
            if self._broken is not None:
                raise self._broken
            if self._closed:
                raise RuntimeError("cannot submit to an executor that was shut down")
            self._calls.append((future, pickle.dumps((fn, args, kwargs))))
            self._hand_out()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes at once, even those that are at work."""
        with self._guard:
            self._closed = True
            for future, _ in self._calls:
                future.cancel()
            self._calls.clear()
            for worker in self.workers:
                worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
            _close(worker)

    def _spawn(self, number: int) -> _Worker:
        environment = {**os.environ, **dict.fromkeys(THREADS, str(self.threads))}
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
                    pass_fds=(self.lock.fileno(),),
                    process_group=0,  # so that Ctrl-C does not reach them
                )
        except OSError as error:
            raise OutputError(f"cannot start a worker of the sweep: {error.strerror or error}") from error
        worker = _Worker(number, process)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):  # it has ended, or was closed
            while True:
                name, value = pickle.load(worker.process.stdout)
                with self._guard:
                    future, worker.future, worker.ready = worker.future, None, True
                    self._hand_out()
                if future is not None:
                    future.set_exception(value) if name == "raised" else future.set_result(value)
        worker.process.kill()
        self._lost(worker, worker.process.wait())

    def _lost(self, worker: _Worker, code: int) -> None:
        """Replace a worker that has ended, unless it could not even start: another one would not, either."""
        reason, how = _reason(code), "killed" if code < 0 else "ended"
        with self._guard:
            future, worker.future = worker.future, None
            if self._closed:
                return
            failed: list[Future[Any]] = []
            try:
                if not worker.ready:
                    raise OutputError(f"{reason}; see {self.log}/worker-{worker.number}.log")
                _close(worker)
                self.workers[self.workers.index(worker)] = self._spawn(worker.number)
            except OutputError as error:
                self._broken = error
                failed = [waiting for waiting, _ in self._calls]
                self._calls.clear()
        if future is not None:
            future.set_exception(WorkerLost(reason, how))
        for waiting in failed:
            waiting.set_exception(self._broken)

    def _hand_out(self) -> None:
        """Give the waiting calls to idle workers."""
        for worker in self.workers:
            while self._calls and worker.ready and worker.future is None:
                future, call = self._calls.popleft()
                if future.set_running_or_notify_cancel():
                    worker.future = future
                    assert worker.process.stdin is not None
                    with contextlib.suppress(BrokenPipeError):  # it has ended, as its listener will notice
                        worker.process.stdin.write(call)
                        worker.process.stdin.flush()


def _close(worker: _Worker) -> None:
    for stream in (worker.process.stdin, worker.process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _reason(code: int) -> str:
    if code >= 0:
        return f"the worker process ended with code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"the worker process was killed by {name}{' (out of memory?)' if -code == signal.SIGKILL else ''}"
