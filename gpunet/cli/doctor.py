"""``gpunet doctor``: checks the environment that gpunet runs in, and says how to fix what is missing."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import sys
from typing import Any

from gpunet.cli.console import logger, print_json
from gpunet.cli.parser import Parser, common_options, device_option, json_option
from gpunet.errors import GpunetError
from gpunet.machine import cpu_facts

_KERNEL_HINT = "reinstall gpunet in a fresh environment; if its folder is not writable, set NUMBA_CACHE_DIR"


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.set_defaults(run=run, json=False, device=None)
    json_option(parser)
    device_option(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; returns 0 if the CPU can be used, and the given device, if any."""
    if args.verbosity == 0:
        logger.setLevel(logging.WARNING)  # hide the log messages about the search for the data set
    report, problems = examine()
    if args.json:
        print_json({**report, "problems": problems, "ok": not problems})
    else:
        _print(report, problems)
    if args.device is not None:  # raises a DeviceError if it cannot be used
        from gpunet.devices import get_backend

        get_backend(args.device)
    return 1 if problems else 0


def examine() -> tuple[dict[str, Any], list[str]]:
    """The state of each component on this machine, and the problems that prevent gpunet from running on the CPU."""
    from gpunet import __version__

    problems: list[str] = []
    report: dict[str, Any] = {
        "version": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
    }
    for part, examine_part in (
        ("cpu", cpu_facts), ("numpy", _numpy), ("numba", _numba), ("cuda", _cuda), ("data", _data), ("cache", _cache)
    ):  # fmt: skip
        try:
            report[part] = examine_part()
        except GpunetError as error:
            report[part] = {"problem": str(error)}
            problems.append(f"{part} does not work: {error}")
        except Exception as error:  # a broken installation may raise anything; examine the other parts
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            report[part] = {"problem": reason}
            problems.append(f"{part} does not work: {reason}; {_KERNEL_HINT}")
    return report, problems


def _numpy() -> dict[str, Any]:
    import numpy as np

    try:
        from threadpoolctl import threadpool_info
    except ImportError:  # when running from a source tree without all dependencies
        return {"version": np.__version__, "blas": []}
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return {
        "version": np.__version__,
        "blas": [
            {"name": library["internal_api"], "version": library["version"], "threads": library["num_threads"]}
            for library in libraries
        ],
    }


def _numba() -> dict[str, Any]:
    """Numba's version and threads, after compiling one of gpunet's kernels and checking its result."""
    import numpy as np

    from gpunet.ops._environment import check_environment
    from gpunet.ops.pool2d import max_pool2d

    check_environment()
    y, _ = max_pool2d(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), 2)
    if y.ravel().tolist() != [5.0, 7.0, 13.0, 15.0]:
        raise RuntimeError(f"a compiled kernel gave {y.ravel().tolist()} instead of [5, 7, 13, 15]")
    numba: Any = importlib.import_module("numba")  # its type hints do not cover the calls below
    return {
        "version": numba.__version__,
        "threading_layer": numba.threading_layer(),
        "threads": numba.get_num_threads(),
    }


def _cuda() -> dict[str, Any]:
    """CuPy and driver versions; on each GPU, one of gpunet's kernels is compiled and its result checked."""
    from gpunet.devices import cuda_status

    status = cuda_status()
    problem = status.problem
    for index in range(len(status.devices) if problem is None else 0):
        problem = problem or _cuda_problem(index)
    return {
        "cupy": status.cupy_version,
        "driver": status.driver,
        "runtime": status.runtime,
        "devices": list(status.devices),
        "problem": problem,
    }


def _cuda_problem(index: int) -> str | None:
    from gpunet import ops
    from gpunet.devices import get_backend

    try:
        backend = get_backend(f"cuda:{index}")
        found = backend.to_numpy(ops.relu(backend.asarray([-1.0, 2.0], "float32"))).tolist()
    except GpunetError as error:
        return str(error)
    except Exception as error:  # a broken toolkit may raise anything
        return f"cuda:{index} cannot run a kernel: {type(error).__name__}: {' '.join(str(error).split())}"
    return None if found == [0.0, 2.0] else f"cuda:{index}: a kernel gave {found} instead of [0, 2]"


def _data() -> dict[str, Any]:
    from gpunet.data import find

    try:
        folder = find()
    except GpunetError as error:
        return {"path": None, "problem": " ".join(str(error).split())}
    if folder is None:
        return {"path": None, "problem": "Fashion-MNIST is not on this machine; download it with: gpunet data fetch"}
    return {"path": str(folder), "problem": None}


def _cache() -> dict[str, Any]:
    from gpunet.data.files import cache_folder

    try:
        folder = cache_folder()
    except GpunetError as error:
        return {"path": None, "problem": str(error)}
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    problem = None if writable else f"{nearest} is not writable; set GPUNET_CACHE to a writable folder"
    return {"path": str(folder), "problem": problem}


def _print(report: dict[str, Any], problems: list[str]) -> None:
    for part, found in report.items():
        print(f"{part:<9} {_line(part, found) if isinstance(found, dict) else found}")
    for problem in problems:
        print(f"problem   {problem}")
    print("gpunet can run on the CPU" if not problems else "gpunet cannot run until these problems are fixed")


def _line(part: str, found: dict[str, Any]) -> str:
    if part == "cuda" and found.get("devices"):
        versions = f"CuPy {found['cupy']}, driver for CUDA {found['driver']}, runtime {found['runtime']}"
        text = f"{versions}, {', '.join(found['devices'])}"
        return f"{text}: {found['problem']}" if found["problem"] else text
    if found.get("problem"):
        return f"not usable: {found['problem']}"
    if part == "cpu":
        return f"{found['name']}, {found['cores']} cores, {' '.join(found['features']) or 'no wide SIMD units'}"
    if part == "numpy":
        libraries = [f"{blas['name']} {blas['version']}, {blas['threads']} threads" for blas in found["blas"]]
        return f"{found['version']}, BLAS {'; '.join(libraries) or 'unknown'}"
    if part == "numba":
        return f"{found['version']}, {found['threads']} threads ({found['threading_layer']})"
    return f"{found['path']}{' (writable)' if part == 'cache' else ''}"
