"""The variables of the environment by which users choose the threads of the CPU kernels."""

from __future__ import annotations

import os
from typing import Any

from gpunet.errors import ConfigError
from gpunet.machine import MAX_THREADS

_LAYERS = ("default", "omp", "tbb", "workqueue", "safe", "forksafe", "threadsafe")


def check_environment() -> None:
    """Check the variables that decide whether and how Numba's kernels run; to be called before Numba is imported.

    Raises:
        ConfigError: one has a value with which they cannot; the message names it.
    """
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    try:
        fits = 1 <= int(threads) <= MAX_THREADS
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"the environment variable NUMBA_NUM_THREADS must be a whole number from 1 to {MAX_THREADS}, "
            f"got {threads!r:.80}: unset it for one thread per core"
        )
    if os.environ.get("NUMBA_DISABLE_JIT", "").strip() not in ("", "0"):
        raise ConfigError(
            f"the environment variable NUMBA_DISABLE_JIT is {os.environ['NUMBA_DISABLE_JIT']!r:.80}, "
            "but gpunet's CPU kernels must be compiled: unset it"
        )
    layer = os.environ.get("NUMBA_THREADING_LAYER", "default")
    if layer.lower() not in _LAYERS:
        raise ConfigError(
            f"the environment variable NUMBA_THREADING_LAYER must be one of {', '.join(_LAYERS)}, got {layer!r:.80}"
        )


def check_threading_layer(numba: Any) -> None:
    """Start Numba's threads now if a threading layer was asked for by name.

    Raises:
        ConfigError: it is not installed.
    """
    layer = numba.config.THREADING_LAYER
    if layer != "default":
        try:
            numba.get_num_threads()
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"NUMBA_THREADING_LAYER is {layer!r}, which cannot be used: {reason}") from None
