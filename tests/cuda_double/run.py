"""Processes on the double."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cuda_double.build import Double
from tests.cuda_double.library import COMPILER, LIBRARY
from tests.cuda_double.start import MODULE
from tests.emulator.build import FMA, FTZ

ROOT = Path(__file__).resolve().parents[2]


def environment(double: Double, devices: int = 1, *, fma: bool = False, ftz: bool = False) -> dict[str, str]:
    """The environment of a Python process whose CuPy has `devices` devices of the double.

    Args:
        fma: in gpunet's kernels, the compiler makes one operation of a product and the sum that takes it.
        ftz: gpunet's kernels take and give zeros for denormal numbers.
    """
    path = [Path(__file__).parent / "site", ROOT, double.packages]
    return {
        **os.environ,
        FMA: str(int(fma)),
        FTZ: str(int(ftz)),
        "PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "CUPY_CACHE_DIR": str(double.kernels),
        "GPUNET_REQUIRE_GPU": "1",
        "GPUNET_CUDA_DOUBLE_DEVICES": str(devices),
        COMPILER: str(double.packages / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"),
        LIBRARY: str(double.library),
        MODULE: str(double.module),
    }


def run(double: Double, args: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """``python args`` on the double, in the folder of the checkout; `options` are those of :func:`environment` and of
    :func:`subprocess.run`."""
    chosen = {name: options.pop(name) for name in ("devices", "fma", "ftz") if name in options}
    variables = environment(double, **chosen) | options.pop("env", {})
    return subprocess.run([sys.executable, *args], cwd=ROOT, env=variables, text=True, check=False, **options)


def run_tests(double: Double, args: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """``pytest -m gpu args`` on the double; `options` are those of :func:`run`."""
    return run(double, ["-m", "pytest", "-p", "tests.cuda_double.plugin", "-m", "gpu", *args], **options)
