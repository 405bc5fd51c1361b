"""The CPU of this machine, its free memory, and the memory that this process uses."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

MAX_THREADS = 1024
"""The largest number of CPU threads that may be asked for."""

_FEATURES = {"avx2": "AVX2", "fma": "FMA", "avx512f": "AVX-512", "neon": "NEON", "sve": "SVE"}
"""LLVM's names of the CPU features that matter for speed, and their usual names."""


def cpu_name() -> str:
    """The name of the CPU as reported by Linux, else by Python; may be empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def cpu_facts() -> dict[str, Any]:
    """``name``, ``cores`` (those available to this process) and ``features`` (vector instruction sets)."""
    import llvmlite.binding as llvm

    found = llvm.get_host_cpu_features()
    return {
        "name": cpu_name() or llvm.get_hostcpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": [name for feature, name in _FEATURES.items() if found.get(feature)],
    }


def available_memory() -> int | None:
    """The memory that this process can still take without swapping, in bytes; None if unknown.

    On Linux this is ``MemAvailable`` of proc(5), or what a container's control group still allows (``memory.max`` less
    ``anon`` of ``memory.stat``, version 2), whichever is less.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # there is no such group, or it has no limit: "max"
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="utf-8"))
        used = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        found.append(max(limit - int(used.get("anon", 0)), 0))
    return min(found, default=None)


def peak_memory() -> int | None:
    """The peak resident memory of this process so far, in bytes; None if unknown.

    On Linux this is ``VmHWM`` of proc(5): ``ru_maxrss`` of getrusage(2) is inherited from the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_freed_memory_back() -> None:
    """Have malloc return to the system what it holds of freed memory, where the C library is GNU's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))
