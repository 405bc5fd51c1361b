"""The device abstraction: what a device is, and which one an array lives on.

A :class:`Backend` is a device plus the array module for it. :class:`CpuBackend` is NumPy with Numba kernels;
:class:`gpunet.cuda.CudaBackend` is CuPy with the CUDA sources in ``kernels/``. Code above :mod:`gpunet.ops` need not
know which one it runs on. :mod:`gpunet.devices` selects one by name.
"""

from __future__ import annotations

import abc
import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from gpunet import aligned
from gpunet.errors import ConfigError, DeviceError, DTypeError
from gpunet.machine import available_memory, cpu_name
from gpunet.recording import Recorded

Array: TypeAlias = npt.NDArray[Any]
"""A ``numpy.ndarray`` or ``cupy.ndarray``; there is no tensor class. (CuPy ships no type annotations.)"""

Scalar: TypeAlias = float | Array
"""A number, or an array of one element on the device, whose value may change between the replays of a captured step."""

Gather: TypeAlias = Callable[[Array], Array]
"""Where the S equal parts of a batch meet: takes what one says, and returns what all say, (S, ...), in their order.

All of them call it equally often, with arrays of one shape and dtype.
"""

Result = TypeVar("Result")
"""Of a step that is captured."""

PRECISIONS = ("float32", "tf32")
"""Compute precisions of convolutions and linear layers; see :meth:`Backend.use_precision`."""


class Collectives(Protocol):
    """Arrays of several processes, see :class:`gpunet.parallel.Communicator`; queued, not waited for."""

    def all_gather(self, rows: Array) -> None:
        """As :meth:`gpunet.parallel.Communicator.all_gather`."""

    def all_to_all(self, send: Array, receive: Array, rows: Sequence[int]) -> None:
        """As :meth:`gpunet.parallel.Communicator.all_to_all`."""


class Backend(abc.ABC):
    """One device and its array module (``numpy`` or ``cupy``). There is one instance per device.

    Attributes:
        device: its name, such as ``cpu`` or ``cuda:0``.
        xp: the array module.
        implementation: the module in an op's package that runs on this device: ``cpu`` or ``cuda``.
        steps_between_reads: training steps to queue before the host reads a result back, which blocks.
        captures: set it to False to have :meth:`capture` return the step as it is, for debuggers and sanitizers.

    >>> backend = gn.get_backend("cpu")
    >>> backend.device, backend.xp.__name__
    ('cpu', 'numpy')
    >>> backend.to_numpy(backend.asarray([1, 2], np.float32))
    array([1., 2.], dtype=float32)
    """

    implementation: str
    steps_between_reads: int

    def __init__(self, device: str, xp: Any) -> None:
        self.device = device
        self.xp = xp
        self.captures = True
        self._precision: ContextVar[str] = ContextVar(f"gpunet_precision_{device}", default="float32")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.device!r})"

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Inside the block, this is the current device of :attr:`xp`, on which array expressions are computed.

        Ops, and the methods of this class, need no such block: they compute on the device of their arrays.
        """
        return contextlib.nullcontext()

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """`array` on this device, copied only if necessary; the only place where data moves between devices."""
        found: Array = self.xp.asarray(array, dtype=dtype)
        return found

    def copy(self, array: Array) -> Array:
        """A C-contiguous copy of `array`, on this device."""
        with self.active():
            return array.copy()

    def assign(self, target: Array, values: Any) -> None:
        """Copy `values`, a number or an array of this device or of the host, into `target`, which is of this device."""
        with self.active():
            target[...] = self.asarray(values, target.dtype)

    @abc.abstractmethod
    def to_numpy(self, array: Array) -> np.ndarray:
        """`array` as a NumPy array on the host; synchronises with the device."""

    @abc.abstractmethod
    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        """A new, uninitialised C-contiguous array."""

    @abc.abstractmethod
    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        """A new C-contiguous array of zeros."""

    @abc.abstractmethod
    def capture(self, step: Callable[[], Result], *, only_ops: bool = False) -> Callable[[], Result]:
        """`step` in its fastest repeatable form: on a GPU, a CUDA graph; on the CPU, with `only_ops`, a list of calls.

        For these, `step` may only call ops on arrays of this device whose addresses do not change. The first call
        runs eagerly, the second is captured, and every later one is replayed without calling `step` again: what
        changes from call to call must be held in arrays, and `step` must not read any value back. The memory
        that this takes is given back with it: an object that holds it should not be held by `step`.

        On a GPU, whatever computes is captured. On the CPU, only what gpunet's own ops compute is: unless `only_ops`
        says that this is all, the function itself is returned.

        The function returns what `step` returned when it was called last. Arrays among that have the values of this
        call until the next one.
        """

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all queued work; a no-op on the CPU."""

    def collectives(self, rank: int, size: int, broadcast: Callable[[Any], Any]) -> Collectives | None:
        """What moves arrays between `size` processes with a device each, of which this is number `rank`.

        None: the device has no way of its own, they go through the host. `broadcast` hands on a value of rank 0's.
        """
        return None

    def memory_left(self) -> int | None:
        """The memory that arrays on this device can still take, in bytes; None if unknown."""
        return available_memory()

    @property
    @abc.abstractmethod
    def hardware(self) -> str:
        """The name of the processor."""

    @abc.abstractmethod
    def compile_ahead(self, on_compile: Callable[[str, int], None]) -> bool:
        """Compile all kernels of this device that are known ahead of time and not yet cached.

        `on_compile` is called as each compilation starts, with the kernel's name and the total number of kernels.

        Returns: whether that covers every kernel; if not, the others are compiled on first call.
        """

    @abc.abstractmethod
    def watch_compilation(self, on_compile: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
        """Inside the block, call `on_compile` with the name of each kernel as its compilation starts.

        Kernels loaded from the disk cache do not count, if the compiler reports them as such.
        """

    def compile_together(self, rehearse: Callable[[], object]) -> contextlib.AbstractContextManager[None]:
        """Inside the block, kernels that are not cached yet are compiled together, in several processes if that helps.

        Which ones, `rehearse` shows, which is called if one is missing: it does what the block will, without its
        kernels. What else it changes, it changes back; an exception ends it, and is ignored.
        """
        return contextlib.nullcontext()

    @property
    def precision(self) -> str:
        """What :meth:`use_precision` has set: ``float32`` by default."""
        return self._precision.get()

    @contextlib.contextmanager
    def use_precision(self, name: str) -> Iterator[None]:
        """Inside the block, compute float32 convolutions and linear layers in precision `name`.

        ``float32``: IEEE float32. ``tf32``: on tensor cores, with operands rounded to a 10-bit mantissa; without tensor
        cores, as on the CPU, it has no effect.

        Raises:
            ConfigError: `name` is neither.
        """
        if name not in PRECISIONS:
            raise ConfigError(f"precision must be {' or '.join(PRECISIONS)}, got {name!r}")
        token = self._precision.set(name)
        try:
            yield
        finally:
            self._precision.reset(token)


class CpuBackend(Backend):
    """NumPy arrays and Numba kernels.

    Attributes:
        rehearsal: of the block of :meth:`compile_together` that runs, until it was needed; the kernels read it.

    >>> gn.get_backend("cpu")
    CpuBackend('cpu')
    """

    implementation = "cpu"
    steps_between_reads = 1

    def __init__(self) -> None:
        super().__init__("cpu", np)
        self.rehearsal: ContextVar[Callable[[], object] | None] = ContextVar("gpunet_rehearsal", default=None)

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return aligned.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        return aligned.zeros(shape, dtype)

    def capture(self, step: Callable[[], Result], *, only_ops: bool = False) -> Callable[[], Result]:
        return Recorded(step) if only_ops and self.captures else step

    def synchronize(self) -> None:
        pass

    @property
    def hardware(self) -> str:
        return cpu_name() or platform.machine()

    def compile_ahead(self, on_compile: Callable[[str, int], None]) -> bool:
        return False  # Numba specialises on argument types at call time

    @contextlib.contextmanager
    def watch_compilation(self, on_compile: Callable[[str], None]) -> Iterator[None]:
        from numba.core import event

        register: Any = event.register
        unregister: Any = event.unregister

        class Listener(event.Listener):
            def on_start(self, event: Any) -> None:
                function = event.data["dispatcher"].py_func
                if not function.__module__.startswith("numba."):  # not Numba's internals
                    on_compile(f"{function.__module__.removeprefix('gpunet.ops.')}.{function.__name__}")

            def on_end(self, event: Any) -> None:
                pass

        listener = Listener()
        register("numba:compile", listener)
        try:
            yield
        finally:
            unregister("numba:compile", listener)

    @contextlib.contextmanager
    def compile_together(self, rehearse: Callable[[], object]) -> Iterator[None]:
        token = self.rehearsal.set(rehearse)
        try:
            yield
        finally:
            self.rehearsal.reset(token)


CPU = CpuBackend()

_array_types: dict[type | str, Callable[[Array], Backend]] = {np.ndarray: lambda array: CPU}


def register_array_type(array_type: type | str, backend_of_array: Callable[[Array], Backend]) -> None:
    """Register an array type, or all types of a package such as ``"cupy"``, with :func:`backend_of`.

    A subclass takes precedence over its base.
    """
    _array_types[array_type] = backend_of_array


def backend_of(*arrays: Array | None) -> Backend:
    """The backend on which all `arrays` live; ``None`` entries are skipped.

    Raises:
        DeviceError: the arrays live on different devices. Nothing is moved implicitly.
        DTypeError: an argument is not an array of a known type.

    >>> gn.backend_of(np.zeros(3), None)
    CpuBackend('cpu')
    """
    found: Backend | None = None
    for array in arrays:
        if array is None:
            continue
        backend = _backend_of_one(array)
        if found is None:
            found = backend
        elif backend is not found:
            raise DeviceError(
                f"the arrays of a call are on different devices: {found.device} and {backend.device}; "
                "move them with Backend.asarray(...) first"
            )
    if found is None:
        raise DTypeError("no array was given, so the device is unknown")
    return found


def _backend_of_one(array: Any) -> Backend:
    if type(array) is np.ndarray:
        return CPU
    find = _finder(array)
    if find is not None:
        return find(array)
    way = "gpunet.from_dlpack" if hasattr(array, "__dlpack__") else "numpy.asarray"
    raise DTypeError(
        f"expected numpy or cupy arrays, got {type(array).__module__}.{type(array).__qualname__}; "
        f"convert it with {way}(...) first"
    )


def is_array(value: Any) -> bool:
    """Whether `value` is an array of a known type: NumPy's, or one of :func:`register_array_type`."""
    return type(value) is np.ndarray or _finder(value) is not None


def _finder(array: Any) -> Callable[[Array], Backend] | None:
    for array_type in type(array).__mro__:
        find = _array_types.get(array_type) or _array_types.get(array_type.__module__.partition(".")[0])
        if find is not None:
            return find
    return None
