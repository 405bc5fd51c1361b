"""Dispatch: from the arrays of a call to the module that implements it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np

from gpunet.backend import CPU, Array
from gpunet.devices import backend_of

_HOST = frozenset((np.ndarray, type(None)))
_modules: dict[tuple[str, str], ModuleType] = {}


def implementation(package: str, *arrays: Array | None) -> ModuleType:
    """The module (``<package>.cpu`` or ``<package>.cuda``) for the device on which all `arrays` live.

    It is imported on first use, so that ``import gpunet`` needs neither Numba nor CuPy.
    """
    on_host = arrays and type(arrays[0]) is np.ndarray and _HOST.issuperset(map(type, arrays))
    key = package, CPU.implementation if on_host else backend_of(*arrays).implementation
    module = _modules.get(key)
    if module is None:
        module = _modules[key] = import_module(f"{package}.{key[1]}")
    return module
