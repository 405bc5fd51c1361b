"""Access outside of arrays and undefined arithmetic: the sanitizers end the process, so each has its own."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.emulator import missing, sanitized_environment

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(missing()), reason=missing() or "-"), pytest.mark.slow]

SOURCE = """#line 1 "planted.cu"
extern "C" __global__ void sums(const float* x, float* y, int n, int bug) {
    __shared__ float first[40];
    __shared__ float second[40];
    DYNAMIC_SHARED(float, dynamic);
    const int i = threadIdx.x;
    first[i] = i < n + (bug == 1) ? x[i] : 0;
    float* volatile pointer = second; pointer[i + (bug == 2 ? 12 : 0)] = first[i];
    dynamic[i + (bug == 3 ? 2 : 0)] = second[i];
    __syncthreads();
    int steps[4] = {i, i, i, i};
    float sum = __shfl_xor_sync(0xffffffffu, dynamic[i], 1) + steps[i % (bug == 4 ? 5 : 4)];
    if (bug == 5) sum += (1 << i % 3) << (i + 30);
    if (bug == 6) sum += reinterpret_cast<const float4*>(x + 1)->x;
    if (i < n) y[i + (bug == 7)] = sum;
}
"""
SCRIPT = f"""
import sys
import numpy as np
from tests.emulator.planted import device, launch, output
x, y = device(np.arange(31)), output(31)
launch({SOURCE!r}, "sums", x, y, np.int32(31), np.int32(sys.argv[1]), block=32, shared=132, seed=1)
expected = (np.append(np.arange(31), 0)[np.arange(32) ^ 1] + np.arange(32))[:31]
assert (y.get() == expected).all()
"""
EXPECTED = (
    "",
    r"heap-buffer-overflow(.|\n)*READ of size 4(.|\n)*in sums .*planted.cu:6",
    r"global-buffer-overflow(.|\n)*planted.cu:7",
    r"use-after-poison(.|\n)*planted.cu:8",
    r"planted.cu:11.*index 4 out of bounds|stack-buffer-overflow(.|\n)*planted.cu:11",
    r"planted.cu:12.*shift exponent",
    r"planted.cu:13.*misaligned address",
    r"heap-buffer-overflow(.|\n)*WRITE of size 4(.|\n)*in sums .*planted.cu:14",
)


def run(bug: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(bug)]
    return subprocess.run(command, env=sanitized_environment(), capture_output=True, text=True, check=False)


def test_sanitizers() -> None:
    correct = run(0)  # first, as it also compiles
    assert correct.returncode == 0, correct.stderr
    bugs = range(1, len(EXPECTED))
    with ThreadPoolExecutor(2) as pool:
        for bug, done in zip(bugs, pool.map(run, bugs), strict=True):
            assert done.returncode != 0, f"bug {bug} was not found"
            assert re.search(EXPECTED[bug], done.stderr), f"bug {bug}: {done.stderr}"
