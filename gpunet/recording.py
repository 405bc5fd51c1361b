"""A step on the CPU, recorded: what it calls is called again, without the Python code in between.

Between two kernels, Python checks, chooses and allocates. The kernel before has driven its code and its data out of the
caches, so that this takes tens of microseconds, together a tenth of a step of a small network. A recorded step is the
list of its calls and their arguments: what a CUDA graph is on a GPU (:class:`gpunet.cuda.cupy_graph.Graph`).

Calls of kernels from Python are recorded, and those of :func:`run`. Ops compute in no other way: whatever else computes
values would do so once, and not in the steps that follow. So ops use :func:`gpunet.aligned.zeros` for memory that must
be zero in each step, :func:`gpunet.aligned.contiguous` for copies, and :func:`run` for what NumPy does.

The arrays of :mod:`gpunet.aligned` that a step makes and drops get places in one block of memory, where those that are
not needed at the same time share theirs. What is needed is known exactly: from the first call that uses an array to the
last, which is less than Python's references keep.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from gpunet.machine import give_freed_memory_back

logger = logging.getLogger("gpunet")

Result = TypeVar("Result")
Call = tuple[Callable[..., Any], tuple[Any, ...]]

LINE = 64
"""Size of a cache line, and of the widest vector register, in bytes."""

_MUCH = 2**24
"""Bytes of memory."""

_ATTEMPTS = 3
"""So often is a step recorded in which a kernel was compiled."""

_active: Recording | None = None
"""The one that is under way; there is one at a time."""

intercept: Callable[[Callable[..., Any], Callable[[], None]], AbstractContextManager[None]] | None = None
"""``intercept(call, compiled)``, once there are kernels. In its block, which one thread enters at a time,
``call(code, *arguments)`` is called in place of each kernel that this thread calls from Python, and ``compiled()`` when
one had no code for its arguments. Set by :mod:`gpunet.ops._intercept`."""


def run(function: Callable[..., object], *arguments: Any) -> None:
    """Call ``function(*arguments)``, which writes its results to arrays among them, also when the step is repeated.

    Arguments are arrays, what does not change from step to step, and tuples of these. Arrays that are only views of
    others, such as a slice, are views of the same memory when the step is repeated.
    """
    recording = _active
    if recording is None or not recording.is_listening():
        function(*arguments)
    else:
        recording.run(function, arguments)


def repeated(function: Callable[..., None]) -> Callable[..., None]:
    """`function`, which writes its results to its arguments, called by :func:`run`; a decorator."""

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        run(function, *arguments)

    return call


def empty(shape: Any, dtype: Any, size: int) -> np.ndarray | None:
    """An uninitialised array of `size` bytes, at a multiple of :data:`LINE`, for the step being recorded, if one is."""
    recording = _active
    return recording.empty(shape, dtype, size) if recording is not None and recording.is_listening() else None


class Recorded(Generic[Result]):
    """A step that is recorded. The first call runs it as it is, the second records it, and later ones repeat that.

    The first run compiles what is not compiled yet. If a kernel is called in the second one whose code is new or that
    returns something to Python, on which what follows may depend, the step runs as it is.

    Attributes:
        calls: what is repeated; None if nothing is.
        memory: bytes for arrays that the step makes and drops; nothing in them is needed between two calls.
    """

    def __init__(self, step: Callable[[], Result]) -> None:
        self._step = step
        self._runs = 0
        self._result: Result
        self.calls: list[Call] | None = None
        self.memory = np.empty(0, np.uint8)

    def __call__(self) -> Result:
        if self.calls is not None:
            for function, arguments in self.calls:
                function(*arguments)
            return self._result
        if _active is not None and _active.is_listening():  # it is part of another step that is recorded
            return self._step()
        self._runs += 1
        if self._runs == 1 or self._runs > 1 + _ATTEMPTS or intercept is None:
            return self._step()
        recording = Recording()
        with recording.listening(intercept):
            result = self._step()
        if recording.objection is None:
            self._result = result
            self.calls, self.memory = recording.finished()
            return result
        logger.debug("a step is not recorded: %s", recording.objection)
        if not recording.may_succeed_later:
            self._runs = _ATTEMPTS + 1
        return result


@dataclass
class _Lease:
    """Memory of an array of the step."""

    start: int
    size: int
    memory: weakref.ref[Any]
    """Its owner, until nothing refers to the array any more."""
    first: int = -1
    """The first call that uses it."""
    end: int = 0
    """The call after the last that does."""


class _Place(NamedTuple):
    """An array in the memory of a lease."""

    lease: _Lease
    offset: int
    shape: tuple[int, ...]
    dtype: Any
    strides: tuple[int, ...]


class Recording:
    """The calls of a step that runs."""

    def __init__(self) -> None:
        self.objection: str | None = None
        self.may_succeed_later = True
        self._calls: list[Call] = []
        self._leases: list[_Lease] = []
        self._thread = threading.get_ident()
        self._runs = False

    def is_listening(self) -> bool:
        """Whether it is this thread's, and no call of :func:`run` is under way."""
        return not self._runs and self._thread == threading.get_ident()

    @contextlib.contextmanager
    def listening(self, intercept: Callable[..., AbstractContextManager[None]]) -> Iterator[None]:
        global _active
        with intercept(self._call_kernel, self._object_to_compilation):
            _active = self
            try:
                yield
            finally:
                _active = None

    def run(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._calls.append((function, self._described(arguments)))
        self._runs = True
        try:
            function(*arguments)
        finally:
            self._runs = False

    def _call_kernel(self, code: Callable[..., Any], *arguments: Any) -> Any:
        if self._runs:
            return code(*arguments)
        self._calls.append((code, self._described(arguments)))
        found = code(*arguments)
        if found is not None:
            self.objection, self.may_succeed_later = f"{code} returned {found!r:.80}", False
        return found

    def _object_to_compilation(self) -> None:
        self.objection = "a kernel was compiled"  # and may have been called since, unheard

    # --- memory -----------------------------------------------------------------------------------------------------

    def empty(self, shape: Any, dtype: Any, size: int) -> np.ndarray:
        memory: Any = np.empty(size + LINE, np.uint8)
        owner: Any = (ctypes.c_char * memory.size).from_buffer(memory)  # seen to die, unlike an array with views
        offset = -ctypes.addressof(owner) % LINE
        self._leases.append(_Lease(ctypes.addressof(owner) + offset, size, weakref.ref(owner)))
        return np.ndarray(shape, dtype, owner, offset)

    def _described(self, value: Any) -> Any:
        """`value`, for the next call, with places instead of the arrays that have one, so that it keeps no memory."""
        if isinstance(value, tuple):
            parts = [self._described(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if not isinstance(value, np.ndarray) or not value.size:
            return value
        at = value.__array_interface__["data"][0]
        for lease in reversed(self._leases):
            if lease.memory() is not None and lease.start <= at < lease.start + lease.size:
                number = len(self._calls)
                lease.first, lease.end = (number if lease.first < 0 else lease.first), number + 1
                return _Place(lease, at - lease.start, value.shape, value.dtype, value.strides)
        return value

    def finished(self) -> tuple[list[Call], np.ndarray]:
        """The calls, with arrays for their places, and the memory of what the step has dropped."""
        owners = {id(lease): lease.memory() for lease in self._leases}
        dropped = [lease for lease in self._leases if owners[id(lease)] is None]
        places = arranged([(lease.size, lease.first, lease.end) for lease in dropped])
        ends = [place + lease.size for place, lease in zip(places, dropped, strict=True)]
        size = max(ends, default=0) + LINE
        if size >= _MUCH:  # malloc holds as much from the runs before, but in pieces
            give_freed_memory_back()
        block = np.empty(size, np.uint8)
        start = -block.ctypes.data % LINE
        starts = {id(lease): start + place for place, lease in zip(places, dropped, strict=True)}

        def placed(value: Any) -> Any:
            if isinstance(value, _Place):
                lease, offset, shape, dtype, strides = value
                owner = owners[id(lease)]
                if owner is None:
                    return np.ndarray(shape, dtype, block, starts[id(lease)] + offset, strides)
                return np.ndarray(shape, dtype, owner, lease.start - ctypes.addressof(owner) + offset, strides)
            if isinstance(value, tuple):
                parts = [placed(part) for part in value]
                return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
            return value

        return [(function, placed(arguments)) for function, arguments in self._calls], block


def arranged(leases: Sequence[tuple[int, int, int]]) -> list[int]:
    """Places in a block, multiples of :data:`LINE`, for arrays of (size, first, end).

    Those share no byte that are needed in the same call: in those from `first` to before `end`. The largest is placed
    first, and each where the block is free first: the greedy way, which is mostly the best one.

    Source: Pisarchyk & Lee, Efficient Memory Management for Deep Neural Net Inference, 2020, algorithm 3.
    """
    places = [0] * len(leases)
    found: list[tuple[int, int, int, int]] = []
    for number in sorted(range(len(leases)), key=lambda number: -leases[number][0]):
        size, first, end = leases[number]
        taken = sorted((at, stop) for at, stop, since, until in found if since < end and first < until)
        place = 0
        for at, stop in taken:
            if at - place >= size:
                break
            place = max(place, stop)
        places[number] = place
        found.append((place, place + -(-size // LINE) * LINE, first, end))
    return places
