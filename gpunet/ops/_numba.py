"""How gpunet uses Numba: the one place that configures it.

Only the ops' ``cpu`` modules import this, and the helpers that they share (``_blas``, ``_exp``, ``_matmul``,
``_reduce`` and ``_simd``); `lint-imports` sees to it.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    # How often an OpenMP thread that waits looks again before it sleeps. GNU's default spins for milliseconds, which
    # makes training many times slower as soon as another process wants the cores. This is some tenths of a millisecond:
    # from one kernel of a step to the next. Read when the library is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numba
import numba.core.config
from numba import prange

# One pool of threads for everything. OpenMP beats Numba's workqueue and is what BLAS and scikit-learn use too.
numba.core.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

jit: Any = functools.partial(numba.njit, cache=True, nogil=True, error_model="numpy")
"""``numba.njit`` with a disk cache. Only module-level functions may use it: closures miss the cache.

A function with `fastmath` flags that other kernels call must be ``inline="always"``. Each caller's library holds a copy
of its callees, compiled in the caller's context, so that the copies may contract multiplications and additions
differently. Which copy runs depends on which library was loaded first: the process that compiles would give other bits
than those that load from the cache.
"""

parallel_jit: Any = functools.partial(jit, parallel=True)
"""As :data:`jit`, with ``prange`` loops spread over the threads.

Work is always split by the shapes alone, never by the number of threads, and partial sums are added
in a fixed order: a result has the same bits with one thread and with many.
"""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def _keep_freed_memory() -> None:
    """Let glibc hand large arrays out again instead of giving them back to the system.

    A step allocates the same arrays as the one before it. Fresh memory costs a page fault for every 4 KB: filling it
    takes about three times as long as filling memory that was used before. Whoever has set malloc up is left alone.
    """
    if os.name != "posix" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # None with another C library
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_keep_freed_memory()

__all__ = ["jit", "numba", "parallel_jit", "prange"]
