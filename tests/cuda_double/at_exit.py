"""The end of a process on the double: leaked memory is reported, and a report makes the process fail."""

from __future__ import annotations

import gc
import os
import sys

from tests.cuda_double.library import problems, report, used

EXIT_CODE = 70
"""Of a process that something was reported in."""


def finish() -> None:
    """Report the memory that is still allocated; end the process with :data:`EXIT_CODE` if there is any report."""
    _report_leaks()
    found = problems()
    if found:
        print(f"cuda double: {len(found)} problem(s) in process {os.getpid()}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)


def _report_leaks() -> None:
    cupy = sys.modules.get("cupy")
    if cupy is None or not hasattr(cupy, "get_default_memory_pool"):
        return
    gc.collect()
    graphs = sys.modules.get("gpunet.cuda.cupy_graph")
    if (
        graphs is not None
    ):  # as of CuPy's pool: what was held when its graph was dropped is given back with the next one
        graphs.free_unused()
    for device in range(cupy.cuda.runtime.getDeviceCount()):
        with cupy.cuda.Device(device):
            cupy.get_default_memory_pool().free_all_blocks()
        size, count = used(device)
        if size:
            report(f"leaked memory: {size} bytes of device {device} in {count} allocation(s)")
