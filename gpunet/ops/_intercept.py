"""Calls of kernels from Python, intercepted: those of a rehearsal, and those of a step that is recorded.

A kernel that has forgotten its code asks for it at each call: that is where other code can be given to it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from gpunet import recording

kernels: list[Any] = []
"""All that are enlisted: functions of modules, which stay."""

CodeFor = Callable[[Any, tuple[Any, ...]], Any]
"""From a kernel and the arguments of a call to what is called with them."""

intercepting = False
"""Whether a thread is in a block of :func:`intercepted`: then code must not be called without its kernel."""

_thread = threading.local()
_lock = threading.Lock()


def _unlock() -> None:
    """In a process that was forked while another thread of its parent held the lock."""
    global _lock, intercepting
    if intercepting:
        _remember_code()
    _lock, intercepting = threading.Lock(), False


def _remember_code() -> None:
    for kernel in kernels:
        for compiled in list(kernel.overloads.values()):
            kernel.add_overload(compiled)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


def enlist(kernel: Any, compiled: CodeFor) -> None:
    """Have `kernel`, as Numba's ``jit`` made it, take part; it calls `compiled` for arguments without code."""
    kernels.append(kernel)

    def code_for(*args: Any) -> Any:
        intercepting: CodeFor | None = getattr(_thread, "code_for", None)
        return compiled(kernel, args) if intercepting is None else intercepting(kernel, args)

    kernel._compile_for_args = code_for


def code_of(kernel: Any, args: tuple[Any, ...]) -> Any:
    """The code of `kernel` for these arguments, compiled if there is none."""
    return type(kernel)._compile_for_args(kernel, *args)


@contextlib.contextmanager
def intercepted(code_for: CodeFor) -> Iterator[None]:
    """Inside the block, this thread calls what `code_for` says instead of kernels; others call kernels."""
    global intercepting
    with _lock:
        _thread.code_for, intercepting = code_for, True
        try:
            for kernel in kernels:  # other threads get its code from `overloads`
                kernel._clear()
            yield
        finally:
            _thread.code_for, intercepting = None, False
            _remember_code()


@contextlib.contextmanager
def _recorded(call: Callable[..., Any], compiled: Callable[[], None]) -> Iterator[None]:
    """As :data:`gpunet.recording.intercept`."""

    def code_for(kernel: Any, args: tuple[Any, ...]) -> Any:
        known = len(kernel.overloads)
        code = code_of(kernel, args)
        if len(kernel.overloads) != known:
            compiled()
        return lambda *args: call(code, *args)

    with intercepted(code_for):
        yield


recording.intercept = _recorded
