"""The memory of large arrays is used again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource
import numpy as np
import gpunet.ops._numba

def fill():
    for size in (3_000_000, 9_000_000):
        np.empty(size, np.float32).fill(1)

fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_large_arrays_cost_page_faults_once() -> None:
    """48 MB in each of ten rounds: 12 faults with pages of 4 MB, 11,700 with pages of 4 KB, were it fresh each time."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS]
    found = int(subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout)
    assert found < 100
    # a setting of the user's is left alone: here, arrays come from the system and go back to it
    users = {**plain, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    assert int(subprocess.run(command, env=users, capture_output=True, text=True, check=True).stdout) > 100


HEAP = """
import gpunet.ops._numba

flags, heap = [], False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        heap = line.rstrip().endswith("[heap]")
    elif heap and line.startswith("VmFlags:"):
        flags += line.split()
print("hg" in flags)
"""


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


@pytest.mark.skipif(not HUGE_PAGES.exists() or platform.libc_ver()[0] != "glibc", reason="of such a kernel and glibc")
def test_the_heap_is_on_huge_pages() -> None:
    """Also of one whose thresholds the user has set, unless so much does not come from the heap, or goes back."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    for more, expected in [
        ({}, "True"),
        ({"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1)}, "True"),
        ({"MALLOC_TRIM_THRESHOLD_": "65536"}, "False"),
        ({"MALLOC_MMAP_THRESHOLD_": "65536"}, "False"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", HEAP], env={**plain, **more}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]
