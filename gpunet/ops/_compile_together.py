"""Kernels that are not cached are compiled together, in several processes.

Numba compiles one kernel after another, as each is called first, under a lock of the whole process: a model's first
step takes a minute, in which all cores but one are idle. So in a block of ``CpuBackend.compile_together``, the first
kernel that is not cached starts a rehearsal: the whole step runs once without its kernels, which only note the types of
their arguments, and return 1. All that are missing are then compiled by this process and others, which hand them over
through the cache on disk (:mod:`gpunet.ops._kernel_cache`).

Nothing depends on it: whatever a process could not compile, for whatever reason, is compiled when it is called.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import config, event

from gpunet.backend import CPU
from gpunet.machine import available_memory
from gpunet.ops._intercept import code_of, intercepted
from gpunet.ops._kernel_cache import KernelCache

logger = logging.getLogger("gpunet")

_PROCESS_MEMORY = 600 * 2**20
"""Bytes that a process which compiles takes at most."""
_MAX_PROCESSES = 8
"""More have nothing left to do: the largest kernel takes as long as all others in so many."""
_ENOUGH = 3
"""Kernels from which the start of a process, a second, pays off."""

Types = tuple[Any, ...]
"""Of the arguments of a call, Numba's."""


def code_for(kernel: Any, args: tuple[Any, ...]) -> Any:
    """The code of `kernel` for these arguments; if it is to be compiled, what else is missing is compiled, too."""
    rehearse = CPU.rehearsal.get()
    if rehearse is not None and not _is_cached(kernel, _types(kernel, args)):
        CPU.rehearsal.set(None)
        _compile(_missing(_rehearsed(rehearse)))
    return code_of(kernel, args)


def _nothing(*args: Any) -> int:
    """In place of a kernel: a number, a count or a check that is passed, where a kernel returns one."""
    return 1


def _types(kernel: Any, args: tuple[Any, ...]) -> Types:
    found = tuple(kernel.typeof_pyval(arg) for arg in args)
    kernel._types_active_call.clear()
    return found


def _rehearsed(rehearse: Callable[[], object]) -> list[tuple[Any, Types]]:
    """The calls of kernels in `rehearse`."""
    noted: dict[tuple[Any, Types], None] = {}

    def note(kernel: Any, args: tuple[Any, ...]) -> Any:
        noted[kernel, _types(kernel, args)] = None
        return _nothing

    try:
        with intercepted(note), np.errstate(all="ignore"):  # what kernels would have written may be any numbers
            rehearse()
    except Exception as error:
        logger.debug("the rehearsal ended early: %s: %s", type(error).__name__, error)
    return list(noted)


def _missing(calls: list[tuple[Any, Types]]) -> list[tuple[Any, Types]]:
    """Those to be compiled, those that take longest first."""
    missing = [
        (kernel, types)
        for kernel, types in calls
        if types not in kernel.overloads
        and isinstance(kernel._cache, KernelCache)
        and kernel.py_func.__module__.startswith("gpunet.")  # what another process can import
        and not _is_cached(kernel, types)
    ]
    return sorted(missing, key=lambda call: _work(call[0].py_func), reverse=True)


def _is_cached(kernel: Any, types: Types) -> bool:
    return isinstance(kernel._cache, KernelCache) and kernel._cache.has(types, kernel.targetctx)


def _work(function: Any) -> int:
    """The length of the code of a kernel and all that it calls: a rough measure of the time to compile it."""
    seen: dict[int, int] = {}

    def visit(function: Any) -> None:
        if id(function) not in seen:
            seen[id(function)] = len(function.__code__.co_code)
            for name in function.__code__.co_names:
                called = getattr(function.__globals__.get(name), "py_func", None)
                if called is not None:
                    visit(called)

    visit(function)
    return sum(seen.values())


def _compile(calls: list[tuple[Any, Types]]) -> None:
    """Compile the kernels for these types, in as many processes as kernels have threads."""
    memory = available_memory()
    room = _MAX_PROCESSES if memory is None else memory // _PROCESS_MEMORY
    processes = min(numba.get_num_threads(), _MAX_PROCESSES, room, len(calls))
    if processes < 2 or len(calls) < _ENOUGH:
        return
    waiting = collections.deque(calls)
    workers: list[subprocess.Popen[bytes]] = []
    threads: list[threading.Thread] = []
    try:
        for _ in range(processes - 1):
            workers.append(_start())
            threads.append(threading.Thread(target=_serve, args=(workers[-1], waiting), daemon=True))
            threads[-1].start()
        while waiting:
            # IndexError: a thread was faster. Whatever else it is, the call of the kernel will meet it again.
            with contextlib.suppress(Exception):
                kernel, types = waiting.popleft()
                kernel.compile(types)
        for thread in threads:
            thread.join()
    except OSError as error:  # no process could be started
        logger.debug("kernels are compiled by this process alone: %s", error)
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()  # it has seen the end of the worker
        for worker in workers:
            worker.communicate()


def _start() -> subprocess.Popen[bytes]:
    """A process of :mod:`gpunet.ops._compile_worker`."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    folder = {"NUMBA_CACHE_DIR": config.CACHE_DIR} if config.CACHE_DIR else {}
    return subprocess.Popen(
        [sys.executable, "-m", "gpunet.ops._compile_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # this process says the same of a cache that cannot be written to
        env={**os.environ, **folder, "PYTHONPATH": path},
    )


def _serve(worker: subprocess.Popen[bytes], waiting: collections.deque[tuple[Any, Types]]) -> None:
    """Hand out to `worker` what is waiting, until nothing is, or the worker has ended or cannot write to the cache."""
    assert worker.stdin is not None and worker.stdout is not None
    saved = b"1"
    while saved == b"1":
        try:
            kernel, types = waiting.popleft()
        except IndexError:
            return
        function = kernel.py_func
        details = {"dispatcher": kernel, "args": types, "return_type": None}
        with event.trigger_event("numba:compile", data=details):  # for those who watch
            try:
                worker.stdin.write(pickle.dumps((function.__module__, function.__qualname__, types)))
                worker.stdin.flush()
                saved = worker.stdout.read(1)
            except OSError:  # it has ended
                return
