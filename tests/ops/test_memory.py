"""The memory of large arrays is used again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

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
