"""Watching kernels being compiled: it happens at their first use and only once, as the results are cached on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def watch(on_compile: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, call `on_compile` with the name of each CPU kernel that has to be compiled, as it starts.

    A kernel that is loaded from the disk cache does not count.
    """
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            function = event.data["dispatcher"].py_func
            if not function.__module__.startswith("numba."):  # Numba's own, compiled along with ours
                on_compile(f"{function.__module__.removeprefix('gpunet.ops.')}.{function.__name__}")

        def on_end(self, event: Any) -> None:
            pass

    listener = Listener()
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)
