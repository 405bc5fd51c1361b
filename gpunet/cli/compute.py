"""Shared by the commands that compute: the device, the number of threads, and the run to work on."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpunet.cli.console import logger
from gpunet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from gpunet.parallel.communicator import Communicator


def prepare(args: argparse.Namespace) -> str | None:
    """Apply ``--threads`` and check ``--device``; returns the device as given, for the pipeline.

    Raises:
        ConfigError: there is no such device, or a variable of the environment keeps kernels from running.
        DeviceError: it cannot be used on this machine.
    """
    device: str | None = getattr(args, "device", None)
    threads: int | None = getattr(args, "threads", None)
    if threads is not None:
        _limit_kernel_threads(threads)
    from gpunet import __version__
    from gpunet.devices import get_backend
    from gpunet.ops._environment import check_environment

    if threads is not None:
        _limit_blas_threads(threads)
    backend = get_backend(device)
    if backend.implementation == "cpu":
        check_environment()
    logger.info("gpunet %s on %s", __version__, backend.device)
    return device


def started_ranks(args: argparse.Namespace) -> Communicator:
    """The ranks that train together, as started by mpiexec; all but the first are quiet, and they share the cores.

    Raises:
        ConfigError: there are several, but they cannot reach each other.
        SystemExit: the same, on all but the first.
    """
    from gpunet.parallel.launch import announced, threads_of_a_rank, world

    try:
        ranks = world()
    except ConfigError as error:
        found = announced()
        if found is not None and found.rank:
            raise SystemExit(error.exit_code) from None
        raise
    if ranks.rank:
        args.verbosity = -1
        logger.setLevel(logging.ERROR)
    if getattr(args, "threads", None) is None:
        args.threads = threads_of_a_rank(ranks)
    if ranks.size > 1:
        logger.info("%d ranks train together", ranks.size)
    return ranks


def refuse_ranks(what: str, advice: str) -> None:
    """Refuse to be one of several processes that mpiexec has started, each of which would do all of the work.

    Raises:
        ConfigError: it is, and the first of them.
        SystemExit: it is another one.
    """
    from gpunet.parallel.launch import announced

    found = announced()
    if found is not None:
        error = ConfigError(
            f"{found.variable}={found.size} says that this is one of {found.size} processes, but {what}: {advice}, or "
            f"unset {found.variable}"
        )
        if found.rank:
            raise SystemExit(error.exit_code)
        raise error


def _limit_blas_threads(threads: int) -> None:
    """Limit the BLAS libraries that are loaded, which NumPy's is."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        logger.warning("--threads does not limit NumPy's BLAS without threadpoolctl: pip install threadpoolctl")
        return
    threadpool_limits(threads, user_api="blas")


def _limit_kernel_threads(threads: int) -> None:
    if "numba" in sys.modules:  # its thread pool has a fixed size by now; only fewer threads can be used
        numba: Any = sys.modules["numba"]
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(threads)


def latest_run(runs_dir: Path = Path("runs")) -> Path:
    """The run folder in `runs_dir` with the most recently saved model.

    Raises:
        CheckpointError: there is none.
    """
    saved = [path for path in runs_dir.glob("*/checkpoint.safetensors") if path.is_file()]
    if not saved:
        raise CheckpointError(f"there is no trained model in {runs_dir}/: train one, or give its run folder with --run")
    newest = max(saved, key=lambda path: (path.stat().st_mtime_ns, path)).parent
    logger.info("model: %s", newest)
    return newest


def existing_run(path: str) -> Path:
    """`path` as a Path.

    Raises:
        CheckpointError: it does not exist.
    """
    if not Path(path).exists():
        raise CheckpointError(f"there is no run folder or checkpoint {path}")
    return Path(path)
