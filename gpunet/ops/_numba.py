"""Numba configuration for all of gpunet.

Imported only by the ops' ``cpu`` modules and the helpers that they share (``_blas``, ``_columns``, ``_elementwise``,
``_exp``, ``_matmul``, ``_pack``, ``_prange``, ``_reduce``, ``_simd`` and ``_window``), which `lint-imports` enforces.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    # How long a waiting OpenMP thread spins before it sleeps. GNU's default is milliseconds, which makes training many
    # times slower as soon as another process wants the cores. This is a few tenths of a millisecond: enough to last
    # from one kernel of a step to the next. Read when the library is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numba
import numba.core.config
from numba.core.codegen import get_host_cpu_features

from gpunet.ops._compile_together import code_for
from gpunet.ops._environment import check_threading_layer
from gpunet.ops._fork import survive_forks
from gpunet.ops._intercept import enlist
from gpunet.ops._kernel_cache import kernel_cache
from gpunet.ops._prange import prange

# One thread pool for everything. OpenMP is faster than Numba's workqueue, and BLAS and scikit-learn use it, too.
numba.core.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
check_threading_layer(numba)
survive_forks()


def _use_whole_vectors() -> None:
    """Have LLVM vectorise loops for all 512 bits of AVX-512, unless the user has set Numba's target.

    By default it keeps to 256 bits on Intel's processors: on the first of them, a few instructions of 512 bits slowed
    the clock for all others. Matrix products use them all the time, so nothing is saved by that. The bits are the same.
    """
    if vars(numba.core.config)["CPU_NAME"] is None and vars(numba.core.config)["CPU_FEATURES"] is None:
        features = get_host_cpu_features()
        if "+avx512f" in features.split(","):
            numba.core.config.CPU_FEATURES = f"{features},-prefer-256-bit"


_use_whole_vectors()


def jit(function: Any = None, **options: Any) -> Any:
    """``numba.njit`` with a disk cache, as a decorator with or without `options`.

    For module-level functions only: closures miss the cache.

    The loop over ``prange`` of a kernel is divided among threads, see :mod:`gpunet.ops._prange`. Sums are partitioned
    by shape only, never by the number of threads, and partial sums are added in a fixed order, so that results are
    bit-identical for any number of threads.

    A function with `fastmath` flags that other kernels call must be ``inline="always"``. Each caller's library holds a
    copy of its callees, compiled in the caller's context, so that the copies may contract multiplications and additions
    differently. Which copy runs depends on which library was loaded first, so the process that compiles could compute
    other bits than those that load from the cache.
    """
    if function is None:
        return functools.partial(jit, **options)
    kernel: Any = numba.njit(nogil=True, error_model="numpy", **options)(function)
    kernel._cache = kernel_cache(function)  # as Dispatcher.enable_caching does with Numba's own
    enlist(kernel, code_for)
    return kernel


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def _keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed large arrays instead of returning it to the system.

    Each step allocates the same arrays as the one before. Fresh memory costs a page fault for every 4 KB: filling it
    takes about three times as long as filling reused memory. Malloc settings made by the user are respected.
    """
    if os.name != "posix" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # None with another C library
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_keep_freed_memory()

_MADV_HUGEPAGE = 14  # of madvise(2)
_HEAP_BYTES = 2**29
_HUGE_PAGE = 2**21


def _use_huge_pages() -> None:
    """Have the first half gigabyte of glibc's heap on huge pages, which takes about 2 % off a training step.

    NumPy asks for them for arrays of 4 MB and more, if their memory is fresh. Nothing is taken: the kernel is told of
    addresses that malloc will use next, and memory that is touched is still all that counts. Where malloc takes so much
    from elsewhere, or gives it back, as the user may have set ``MALLOC_MMAP_THRESHOLD_`` and others, nothing changes.
    """
    if platform.libc_ver()[0] != "glibc" or sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = library.malloc(_HEAP_BYTES)
    if block is not None:
        first = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        library.madvise(first, block + _HEAP_BYTES - first, _MADV_HUGEPAGE)  # it may refuse
        library.free(block)


_use_huge_pages()

__all__ = ["jit", "numba", "prange"]
