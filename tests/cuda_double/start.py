"""Puts the double under CuPy: its runtime module in place of the wheel's, and the kernels' hooks behind it."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

MODULE = "GPUNET_CUDA_DOUBLE_MODULE"
"""Environment variable: the file of CuPy's runtime module that was built against the double."""
_REPLACED = "cupy_backends.cuda.api.runtime"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module; the double is loaded before it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name != _REPLACED:
            return None
        from tests.cuda_double.hooks import connect

        connect()
        return importlib.util.spec_from_file_location(name, os.environ[MODULE])


def start() -> None:
    """Let the first import of CuPy in this process find the double."""
    sys.meta_path.insert(0, _Finder())
