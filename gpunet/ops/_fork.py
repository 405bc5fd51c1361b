"""CPU kernels in forked processes: a child has none of the threads that its parent started."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import sys
from typing import Any

from gpunet.errors import DeviceError
from gpunet.ops import _dispatch

logger = logging.getLogger("gpunet")

_ADVICE = 'start processes by "spawn": multiprocessing.get_context("spawn"), DataLoader(multiprocessing_context=)'

_notices: list[int] = []
"""The process that has yet to say that it is forked."""


@functools.cache
def survive_forks() -> None:
    """Make kernels work in processes that are forked from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """Let a forked child run its kernels on one thread, which gives the same bits, and say so at its first op.

    Only GNU's OpenMP waits for the threads that are gone, or is ended by Numba before it does; a team of one thread
    needs none of them. Threads that the child starts itself have teams of their own.
    """
    parallel: Any = sys.modules.get("numba.np.ufunc.parallel")
    if parallel is None or not parallel._is_initialized or parallel._threading_layer != "omp":
        return
    omppool: Any = sys.modules["numba.np.ufunc.omppool"]
    if omppool.openmp_vendor != "GNU":
        return
    try:
        # It starts threads in the first process only; in this one, it is noted as the process that may use them.
        call = ctypes.CFUNCTYPE(None, ctypes.c_int)
        call(omppool.launch_threads)(parallel.NUM_THREADS)
        call(omppool.set_num_threads)(1)
        parallel._set_num_threads = lambda count: None  # of numba.set_num_threads
        _notices[:] = [os.getpid()]
        _dispatch.before_next_cpu_call(_say_one_thread)
    except (AttributeError, TypeError):  # another Numba
        _dispatch.before_next_cpu_call(_refuse)


def _say_one_thread() -> None:
    with contextlib.suppress(IndexError):  # another thread was faster
        process = _notices.pop()
        logger.warning("forked process %d: the CPU kernels run on one thread; for more, %s", process, _ADVICE)


def _refuse() -> None:
    raise DeviceError(f"this process was forked after a CPU kernel had run, and has none of its threads: {_ADVICE}")
