"""The functions of the library that are meant for Python."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

LIBRARY = "GPUNET_CUDA_DOUBLE_LIBRARY"
"""Environment variable: the file of the library."""
COMPILER = "GPUNET_CUDA_DOUBLE_COMPILER"
"""Environment variable: the file of NVRTC that belongs to CuPy's wheel."""

LOAD = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t)
FIND = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_char_p)
RUN = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_long, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_void_p), ctypes.c_int
)


class Hooks(ctypes.Structure):
    """What the library asks Python for; ``library/modules.cpp`` has the same."""

    _fields_ = (("load", LOAD), ("find", FIND), ("run", RUN))


@functools.cache
def library() -> Any:
    """The library, loaded for all modules that come after it: CuPy finds the CUDA driver in it."""
    ctypes.CDLL(os.environ[COMPILER])  # before CuPy looks for one, and finds that of another version
    found = ctypes.CDLL(os.environ[LIBRARY], ctypes.RTLD_GLOBAL)
    found.cuda_double_connect.argtypes = [Hooks]
    found.cuda_double_describe.argtypes = [
        *(ctypes.c_long, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int)
    ]
    found.cuda_double_usable.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    found.cuda_double_report.argtypes = [ctypes.c_char_p]
    found.cuda_double_limit_memory.argtypes = [ctypes.c_size_t]
    found.cuda_double_used.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_size_t)]
    found.cuda_double_used.restype = ctypes.c_size_t
    found.cuda_double_problem_count.restype = ctypes.c_size_t
    found.cuda_double_problem.argtypes = [ctypes.c_size_t]
    found.cuda_double_problem.restype = ctypes.c_char_p
    return found


def report(text: str) -> None:
    """Add a line to the report."""
    library().cuda_double_report(text.encode())


def problems(first: int = 0) -> list[str]:
    """The lines of the report from number `first` on."""
    count = library().cuda_double_problem_count()
    return [library().cuda_double_problem(number).decode() for number in range(first, count)]


def usable(address: int, size: int, what: str) -> bool:
    """Whether a kernel on the current device may touch `size` bytes at `address`; if not, it is reported."""
    return bool(library().cuda_double_usable(address, size, what.encode()))


def used(device: int) -> tuple[int, int]:
    """Bytes of a device that are allocated, and in how many allocations."""
    count = ctypes.c_size_t()
    return library().cuda_double_used(device, ctypes.byref(count)), count.value


def limit_memory(size: int) -> None:
    """From now on the devices have `size` bytes each."""
    library().cuda_double_limit_memory(size)
