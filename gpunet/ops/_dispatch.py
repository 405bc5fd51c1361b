"""Dispatch: from the arrays of a call to the module that implements it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import numpy as np

from gpunet.backend import CPU, Array
from gpunet.devices import backend_of
from gpunet.ops._environment import check_environment

_modules: dict[tuple[str, str], ModuleType] = {}
"""Those in use, by package and the backend's implementation."""
_on_cpu: dict[str, ModuleType] = {}
"""Those for the CPU, by package: what most calls ask for."""
_before_next: list[Callable[[], None]] = [check_environment]


def implementation(package: str, *arrays: Array | None) -> ModuleType:
    """The module (``<package>.cpu`` or ``<package>.cuda``) for the device on which all `arrays` live.

    It is imported on first use, so that ``import gpunet`` needs neither Numba nor CuPy.
    """
    for array in arrays:
        if type(array) is not np.ndarray and array is not None:
            break
    else:
        found = _on_cpu.get(package)
        if found is not None and arrays and arrays[0] is not None:
            return found
    key = package, backend_of(*arrays).implementation
    on_cpu = key[1] == CPU.implementation
    if on_cpu:
        for check in tuple(_before_next):
            check()
        _before_next.clear()
    module = _modules.get(key)
    if module is None:
        module = _modules[key] = import_module(f"{package}.{key[1]}")
    if on_cpu:
        _on_cpu[package] = module
    return module


ready_on_cpu = _on_cpu.get
"""``ready_on_cpu(package)``: its module for NumPy arrays, or None before :func:`implementation` has found it."""


def before_next_cpu_call(check: Callable[[], None]) -> None:
    """Call `check` when an op is next called on the CPU and, while it raises, at every such call.

    Threads that call ops at the same time may all call it.
    """
    _before_next[:] = [check]
    _on_cpu.clear()  # so that other calls need not look for it
