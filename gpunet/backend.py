"""What a device is, and on which one an array lives: the switch between NumPy and CuPy.

A :class:`Backend` is a device plus the array module that works on it. :class:`CpuBackend` is NumPy with Numba kernels;
:class:`gpunet.cuda.CudaBackend` is CuPy with the CUDA sources of ``kernels/``. Nothing above :mod:`gpunet.ops` needs to
know which. :mod:`gpunet.devices` chooses one by name.
"""

from __future__ import annotations

import abc
import contextlib
import platform
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gpunet import aligned
from gpunet.errors import ConfigError, DeviceError, DTypeError
from gpunet.machine import cpu_name

Array: TypeAlias = npt.NDArray[Any]
"""A ``numpy.ndarray`` or ``cupy.ndarray``; there is no tensor class. CuPy has no types of its own to name."""

Scalar: TypeAlias = float | Array
"""A number, or an array of one element on the device, whose value may change between the replays of a captured step."""

PRECISIONS = ("float32", "tf32")
"""What the products of convolutions and linear layers may be computed in; see :meth:`Backend.use_precision`."""


class Backend(abc.ABC):
    """One device and the array module (``numpy`` or ``cupy``) that works on it. There is one instance for each device.

    Attributes:
        device: its name, such as ``cpu`` or ``cuda:0``.
        xp: the array module.
        implementation: the module of an op's package that runs here: ``cpu`` or ``cuda``.
        steps_between_reads: training steps that are queued before the host reads a result, for which it has to wait.
    """

    implementation: str
    steps_between_reads: int

    def __init__(self, device: str, xp: Any) -> None:
        self.device = device
        self.xp = xp
        self._precision: ContextVar[str] = ContextVar(f"gpunet_precision_{device}", default="float32")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.device!r})"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """`array` on this device, copied only when it has to be; the one place where data changes device."""
        found: Array = self.xp.asarray(array, dtype=dtype)
        return found

    @abc.abstractmethod
    def to_numpy(self, array: Array) -> np.ndarray:
        """`array` as a NumPy array on the host; waits for the device."""

    @abc.abstractmethod
    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        """A new C-contiguous array whose values are whatever the memory held."""

    @abc.abstractmethod
    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        """A new C-contiguous array of zeros."""

    @abc.abstractmethod
    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """`step` in its fastest repeatable form: on the CPU, the function itself; on a GPU, a CUDA graph.

        For a graph, `step` must do nothing but call ops on arrays of this device that stay where they are. Its first
        call runs as it is, the second records what is launched, and from then on that is replayed and `step` itself is
        not called again: what changes from call to call must lie in arrays on the device, and nothing may look at a
        value.
        """

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all work; at once on the CPU."""

    @property
    @abc.abstractmethod
    def hardware(self) -> str:
        """The name of the processor that this is."""

    @abc.abstractmethod
    def compile_ahead(self, on_compile: Callable[[str, int], None]) -> bool:
        """Compile the kernels of this device that are known before they are called, unless they are compiled already.

        `on_compile` is called with the name of each as its compilation begins, and with their number.

        Returns: whether these are all kernels; where not, the others are compiled at their first call.
        """

    @abc.abstractmethod
    def watch_compilation(self, on_compile: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
        """Inside the block, call `on_compile` with the name of each kernel that has to be compiled, as that begins.

        What is loaded from the cache on disk does not count where the compiler says so.
        """

    @property
    def precision(self) -> str:
        """What :meth:`use_precision` has set: ``float32`` by default."""
        return self._precision.get()

    @contextlib.contextmanager
    def use_precision(self, name: str) -> Iterator[None]:
        """Inside the block, compute the float32 products of convolutions and linear layers in `name`.

        ``float32``: as IEEE float32. ``tf32``: on tensor cores, operands rounded to 10 bits of mantissa; where there
        are none, as on the CPU, it changes nothing.

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
    """NumPy arrays and Numba kernels."""

    implementation = "cpu"
    steps_between_reads = 1

    def __init__(self) -> None:
        super().__init__("cpu", np)

    def to_numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return aligned.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        return aligned.zeros(shape, dtype)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        return step

    def synchronize(self) -> None:
        pass

    @property
    def hardware(self) -> str:
        return cpu_name() or platform.machine()

    def compile_ahead(self, on_compile: Callable[[str, int], None]) -> bool:
        return False  # Numba compiles for the types that it meets

    @contextlib.contextmanager
    def watch_compilation(self, on_compile: Callable[[str], None]) -> Iterator[None]:
        from numba.core import event

        register: Any = event.register
        unregister: Any = event.unregister

        class Listener(event.Listener):
            def on_start(self, event: Any) -> None:
                function = event.data["dispatcher"].py_func
                if not function.__module__.startswith("numba."):  # Numba's own, compiled along with ours
                    on_compile(f"{function.__module__.removeprefix('gpunet.ops.')}.{function.__name__}")

            def on_end(self, event: Any) -> None:
                pass

        listener = Listener()
        register("numba:compile", listener)
        try:
            yield
        finally:
            unregister("numba:compile", listener)


CPU = CpuBackend()

_array_types: dict[type | str, Callable[[Array], Backend]] = {np.ndarray: lambda array: CPU}


def register_array_type(array_type: type | str, backend_of_array: Callable[[Array], Backend]) -> None:
    """Teach :func:`backend_of` about an array type, or about all types of a package such as ``"cupy"``.

    A subclass is matched before its base.
    """
    _array_types[array_type] = backend_of_array


def backend_of(*arrays: Array | None) -> Backend:
    """The one backend on which all `arrays` live; ``None`` entries are skipped.

    Raises:
        DeviceError: the arrays live on different devices. Nothing is moved silently.
        DTypeError: something is not an array of a known kind.
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
                f"arrays of one operation live on different devices: {found.device} and {backend.device}; "
                "move them with Backend.asarray(...) first"
            )
    if found is None:
        raise DTypeError("no array was given, so the device is unknown")
    return found


def _backend_of_one(array: Any) -> Backend:
    if type(array) is np.ndarray:
        return CPU
    for array_type in type(array).__mro__:
        find = _array_types.get(array_type) or _array_types.get(array_type.__module__.partition(".")[0])
        if find is not None:
            return find(array)
    raise DTypeError(
        f"expected numpy or cupy arrays, got {type(array).__module__}.{type(array).__qualname__}; "
        "convert it with numpy.asarray(...) first"
    )
