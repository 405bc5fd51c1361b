"""Where a measurement was made (machine, versions and commit), and equal conditions for all contestants."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Keeps freed memory in the process. PyTorch gains most from this, so it is set for all contestants."""

SPIN = {"GOMP_SPINCOUNT": "1000", "OPENBLAS_THREAD_TIMEOUT": "14"}
"""How long idle threads spin before they sleep: a few microseconds (2^14 cycles for OpenBLAS).

For implementations that take turns in one process: by default, OpenBLAS's threads spin for 2^26 cycles or more and GNU
OpenMP's for milliseconds, competing for the cores with whatever is measured next. Contestants with a process each keep
their defaults.
"""

_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PACKAGES = ("numpy", "numba", "scipy", "scikit-learn", "torch", "cupy-cuda12x", "cupy-cuda13x")


def available_cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Number of threads that this process uses: as set by :func:`pinned`, else one per core."""
    return int(os.environ.get(_THREADS[0]) or available_cores())


def pinned(count: int) -> dict[str, str]:
    """The environment of a measured process: `count` threads for every library."""
    return {**os.environ, **dict.fromkeys(_THREADS, str(count))}


def environment(count: int | None = None) -> dict[str, Any]:
    """``machine``, ``versions`` and ``commit``, the head of every result file."""
    return {"machine": machine(count), "versions": versions(), "commit": commit()}


def machine(count: int | None = None) -> dict[str, Any]:
    """CPU, cores, threads (`count`), memory and GPUs."""
    from gpunet.devices import cuda_status
    from gpunet.machine import cpu_facts

    cpu = cpu_facts()
    return {
        "cpu": cpu["name"],
        "features": cpu["features"],
        "cores": cpu["cores"],
        "threads": count or threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": list(cuda_status().devices),
    }


def versions() -> dict[str, str]:
    """Versions of Python, gpunet and the installed libraries."""
    from gpunet import __version__

    found = {"python": platform.python_version(), "gpunet": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """The commit's hash, and whether files other than results differ from it; both None outside a repository."""
    head = git("rev-parse", "HEAD")
    if head is None:
        return {"hash": os.environ.get("GPUNET_COMMIT"), "dirty": None}
    return {"hash": head.strip(), "dirty": bool(git("status", "--porcelain", "--", ".", ":!bench/results"))}


def git(*arguments: str) -> str | None:
    """Output of a git command in the repository; None without git or a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def where(facts: Mapping[str, Any]) -> str:
    """The machine of a result file, in one line."""
    cpu = facts["machine"]
    features = f" ({', '.join(cpu['features'])})" if cpu.get("features") else ""
    gpus = f", {', '.join(cpu['gpus'])}" if cpu.get("gpus") else ", no GPU"
    cores = "1 core" if cpu["cores"] == 1 else f"{cpu['cores']} cores"
    return f"{cpu['cpu']}{features}, {cores}, {threads_in_words(cpu)}, {cpu['memory_gb']} GB{gpus}"


def threads_in_words(machine: Mapping[str, Any]) -> str:
    return "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"


def which(facts: Mapping[str, Any]) -> str:
    """Versions and commit of a result file, in one line."""
    hash_, dirty = facts["commit"]["hash"], facts["commit"]["dirty"]
    code = f"commit {hash_[:10]}{' with uncommitted changes' if dirty else ''}" if hash_ else "an unknown commit"
    return f"{', '.join(f'{name} {version}' for name, version in facts['versions'].items())}; {code}"
