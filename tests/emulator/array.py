"""Arrays of the emulated device: NumPy's memory with CuPy's manners.

They differ from NumPy arrays where CuPy's do, so that code that works here works there: they do not mix with host
arrays, indexing and reductions give 0-d arrays, and looking at a value is a step of its own (``float()``, ``.get()``),
which is refused while a graph is captured.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpunet.errors import DeviceMemoryError
from tests.emulator import recording
from tests.emulator.build import EmulationError
from tests.emulator.recording import forbid

_POISON = 0xFF
"""Every byte of memory that was not written yet: NaN in both float types, -1 in signed integers."""


_current = 0
"""The number of the current device, on which arrays are allocated and expressions computed."""


@contextlib.contextmanager
def current_device(index: int) -> Iterator[None]:
    """Inside the block, device `index` is the current one."""
    global _current
    before, _current = _current, index
    try:
        yield
    finally:
        _current = before


class EmulatedArray(np.ndarray):
    """An array on emulated device number `device_index`: the current one, or that of the array it is a view of."""

    device_index: int

    def __array_finalize__(self, obj: Any) -> None:
        self.device_index = getattr(obj, "device_index", _current)

    def get(self) -> np.ndarray:
        """A copy on the host."""
        return _host(self, "get()").copy()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        name = f"numpy.{ufunc.__name__}"
        if out is not None:
            kwargs["out"] = out
        result = _device_call(name, getattr(ufunc, method), *inputs, **kwargs)
        if out is None:
            return result
        return out[0] if len(out) == 1 else out

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        return _device_call(f"numpy.{func.__name__}", func, *args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, (list, np.ndarray)) for part in keys):
            return _device_call("indexing with an array", np.ndarray.__getitem__, self, key)
        if not any(part is Ellipsis for part in keys):
            keys = (*keys, Ellipsis)  # one element is a 0-d array, not a number
        return super().__getitem__(keys)

    def __setitem__(self, key: Any, value: Any) -> None:
        keys = key if isinstance(key, tuple) else (key,)
        plain = tuple(_plain(part, "an assignment") for part in keys)
        _device_call("an assignment", np.ndarray.__setitem__, self, plain, value)

    def copy(self, order: Any = "C") -> EmulatedArray:
        """A copy on the current device, whichever this array is on."""
        forbid("copy()")
        return EMULATED_MODULE.array(self.view(np.ndarray).copy(order))

    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        return self._view_or_copy("reshape", *shape, **kwargs)

    def ravel(self, *args: Any, **kwargs: Any) -> Any:
        return self._view_or_copy("ravel", *args, **kwargs)

    def _view_or_copy(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(np.ndarray, method)(self, *args, **kwargs)
        if result.size and not np.may_share_memory(np.asarray(self), np.asarray(result)):
            forbid(f"a copy by {method}()")
        return result


def _host(array: EmulatedArray, what: str) -> np.ndarray:
    """`array` as NumPy sees it, for a read by the host."""
    forbid(f"reading a value on the host ({what})")
    return array.view(np.ndarray)


def _plain(value: Any, what: str) -> Any:
    """`value` with emulated arrays as NumPy arrays, at any depth; TypeError for an array of the host."""
    if isinstance(value, EmulatedArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"{what} mixes an array of the device with one of the host: move it with Backend.asarray(...)")
    if type(value) in (list, tuple):
        return type(value)(_plain(item, what) for item in value)
    return value


def _wrapped(value: Any) -> Any:
    """Arrays and NumPy scalars as emulated arrays."""
    if isinstance(value, EmulatedArray):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value).view(EmulatedArray)
    if type(value) in (list, tuple):
        return type(value)(_wrapped(item) for item in value)
    return value


def _check_current(what: str, *values: Any) -> None:
    """Raise if an array among `values` is not on the current device: CuPy would compute on the wrong one, or refuse."""
    for value in values:
        if isinstance(value, EmulatedArray) and value.device_index != _current:
            raise EmulationError(
                f"{what} of an array of device {value.device_index}, while device {_current} is current"
            )
        if type(value) in (list, tuple):
            _check_current(what, *value)


def _device_call(what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function` on the device: NumPy does the work, in arrays of the device only."""
    forbid(what)
    _check_current(what, *args, *kwargs.values())
    plain = [_plain(arg, what) for arg in args]
    return _wrapped(function(*plain, **{name: _plain(value, what) for name, value in kwargs.items()}))


def _device_method(name: str) -> Callable[..., Any]:
    def method(self: EmulatedArray, *args: Any, **kwargs: Any) -> Any:
        return _device_call(f"{name}()", getattr(np.ndarray, name), self, *args, **kwargs)

    method.__name__ = name
    return method


def _host_read(name: str) -> Callable[..., Any]:
    def method(self: EmulatedArray, *args: Any) -> Any:
        return getattr(_host(self, name.strip("_") + "()"), name)(*args)

    method.__name__ = name
    return method


_DEVICE_METHODS = (
    *("all", "any", "argmax", "argmin", "argsort", "astype", "clip", "cumsum", "dot", "fill", "flatten", "max"),
    *("mean", "min", "nonzero", "prod", "repeat", "round", "sort", "std", "sum", "take", "trace", "var"),
)
_HOST_READS = (
    *("__bool__", "__complex__", "__contains__", "__float__", "__format__", "__index__", "__int__", "__repr__"),
    *("__str__", "item", "tobytes", "tofile", "tolist"),
)
for _name in _DEVICE_METHODS:
    setattr(EmulatedArray, _name, _device_method(_name))
for _name in _HOST_READS:
    setattr(EmulatedArray, _name, _host_read(_name))


# --- memory ---


def poison(array: EmulatedArray) -> None:
    """Fill a contiguous array with what memory holds that nobody has written."""
    ctypes.memset(_address(array), _POISON, array.nbytes)


def _clear(array: EmulatedArray) -> None:
    ctypes.memset(_address(array), 0, array.nbytes)


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


_live: dict[int, int] = {}
"""The size of each array that owns memory of a device, by its id."""


memory_limit = 2**40
"""Memory of the devices; allocating more fails."""


def live_bytes() -> int:
    """Memory of the devices that is in use."""
    return sum(_live.values())


class EmulatedModule:
    """What takes the place of ``cupy``: allocation as below, all else is NumPy's function on arrays of the device."""

    ndarray = EmulatedArray

    def empty(self, shape: int | Sequence[int], dtype: Any = np.float64, order: Any = "C") -> EmulatedArray:
        """Poisoned memory, a buffer of its own: AddressSanitizer sees where it ends."""
        array = EmulatedArray(shape, np.dtype(dtype), order=order)
        if live_bytes() + array.nbytes > memory_limit:
            free = max(0, memory_limit - live_bytes())
            raise DeviceMemoryError(f"emulated:{_current}", array.nbytes, free, memory_limit)
        _live[id(array)] = array.nbytes
        weakref.finalize(array, _live.pop, id(array)).atexit = False
        if recording.current is not None:
            recording.current.owned.append(array)
        poison(array)
        return array

    def zeros(self, shape: int | Sequence[int], dtype: Any = np.float64, order: Any = "C") -> EmulatedArray:
        array = self.empty(shape, dtype, order)
        _clear(array)
        if recording.current is not None:
            recording.current.work.append(lambda: _clear(array))
        return array

    def full(self, shape: int | Sequence[int], fill_value: Any, dtype: Any = None) -> EmulatedArray:
        forbid("full()")
        array = self.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
        array.fill(fill_value)
        return array

    def ones(self, shape: int | Sequence[int], dtype: Any = np.float64) -> EmulatedArray:
        return self.full(shape, 1, dtype)

    def empty_like(self, array: EmulatedArray, dtype: Any = None) -> EmulatedArray:
        return self.empty(array.shape, array.dtype if dtype is None else dtype)

    def zeros_like(self, array: EmulatedArray, dtype: Any = None) -> EmulatedArray:
        return self.zeros(array.shape, array.dtype if dtype is None else dtype)

    def ones_like(self, array: EmulatedArray, dtype: Any = None) -> EmulatedArray:
        return self.ones(array.shape, array.dtype if dtype is None else dtype)

    def asarray(self, array: Any, dtype: Any = None) -> EmulatedArray:
        """`array` itself if it is on the device and of `dtype`, else a copy on the device."""
        if isinstance(array, EmulatedArray) and (dtype is None or array.dtype == dtype):  # to NumPy, float64 == None
            return array
        return self.array(array, dtype)

    def array(self, array: Any, dtype: Any = None) -> EmulatedArray:
        forbid("a copy to or on the device")
        _check_current("a copy", array)
        values = np.asarray(array.view(np.ndarray) if isinstance(array, EmulatedArray) else array, dtype)
        copy = self.empty(values.shape, values.dtype)
        copy.view(np.ndarray)[...] = values
        return copy

    def ascontiguousarray(self, array: Any, dtype: Any = None) -> EmulatedArray:
        """As :meth:`asarray`, and contiguous. CuPy's kernel for it can be captured, gpunet's rule is that none is."""
        fits = isinstance(array, EmulatedArray) and array.flags.c_contiguous and (dtype is None or array.dtype == dtype)
        return array if fits else self.array(array, dtype)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(np, name)
        if not callable(attribute) or isinstance(attribute, type):
            return attribute  # a dtype or a constant

        def function(*args: Any, **kwargs: Any) -> Any:
            return _device_call(f"{name}()", attribute, *args, **kwargs)

        function.__name__ = name
        return function


EMULATED_MODULE = EmulatedModule()
