"""Launching kernels, and allocating what they write: all that ``gpunet/ops/*/cuda.py`` uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpunet.backend import Array
from gpunet.cuda import sources
from gpunet.cuda.backend import cuda_backend_of
from gpunet.cuda.runtime import Dim3
from gpunet.cuda.sources import Defines, Parameter
from gpunet.errors import ConfigError, DTypeError, ShapeError

_MAX_SIZE = 2**31 - 1  # kernels count elements in an int
_REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def launch(
    source: str,
    kernel: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    *args: Any,
    real: Any,
    shared: int = 0,
    **defines: str,
) -> None:
    """Start a kernel on the device of its array arguments, compiling its source first if need be.

    The arguments are held to the kernel's signature as it stands in the source: nothing is copied or converted, but
    for numbers, which become what the signature declares.

    Args:
        source, kernel: a function of ``kernels/<source>.cu``.
        grid, block: numbers of blocks and of threads of a block, up to three each. A grid with a 0 launches nothing.
        args: arrays, numbers, None for a null pointer, or a mapping from the members of a struct to numbers.
        real: float32 or float64, what ``real`` in the source is.
        shared: dynamic shared memory, bytes.
        defines: further constants of the specialisation.

    Raises:
        ConfigError: no such source, specialisation or kernel, or the number of arguments is wrong.
        DTypeError: an array or a number is not of the declared type, or does not fit into it.
        ShapeError: an array is not C-contiguous, read-only but written to, or too large.
        DeviceError: the arrays live on different devices.
    """
    backend = cuda_backend_of(*(arg for arg in args if hasattr(arg, "ndim") and not isinstance(arg, np.generic)))
    chosen: Defines = {"REAL": _real_name(real), **defines}
    module = backend.module(source, chosen)
    found = sources.kernels(source, chosen).get(kernel)
    if found is None:
        raise ConfigError(f"{source}.cu has no kernel {kernel!r}; it has {', '.join(sources.kernels(source, chosen))}")
    if len(args) != len(found.parameters):
        names = ", ".join(parameter.name for parameter in found.parameters)
        raise ConfigError(f"{kernel} takes {len(found.parameters)} arguments ({names}), got {len(args)}")
    checked = tuple(_checked(kernel, parameter, arg) for parameter, arg in zip(found.parameters, args, strict=True))
    dim_grid = _dim3(grid)
    if 0 not in dim_grid:
        backend.runtime.launch(module, found, dim_grid, _dim3(block), checked, shared)


def _real_name(real: Any) -> str:
    name = _REAL.get(np.dtype(real))
    if name is None:
        raise DTypeError(f"real must be float32 or float64, got {np.dtype(real)}")
    return name


def _dim3(size: int | Sequence[int]) -> Dim3:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    x, y, z = (*sizes, 1, 1)[:3]
    return int(x), int(y), int(z)


def _checked(kernel: str, parameter: Parameter, arg: Any) -> Any:
    """`arg` as `parameter` declares it."""
    name = f"{kernel}: {parameter.name}"
    if parameter.pointer:
        if arg is None:
            return None
        if not hasattr(arg, "ndim") or isinstance(arg, np.generic):
            raise DTypeError(f"{name} is a pointer: expected an array of {parameter.dtype} or None, got {arg!r}")
        if arg.dtype != parameter.dtype:
            raise DTypeError(f"{name} must be {parameter.dtype}, got {arg.dtype}")
        if not arg.flags.c_contiguous:
            raise ShapeError(f"{name} must be C-contiguous, got shape {tuple(arg.shape)} with strides {arg.strides}")
        if arg.size > _MAX_SIZE:
            raise ShapeError(f"{name} has {arg.size} elements, kernels can count {_MAX_SIZE}: use smaller batches")
        if not parameter.const and not getattr(arg.flags, "writeable", True):
            raise ShapeError(f"{name} is written to, but the array is read-only")
        return arg
    if parameter.dtype.fields:
        return _struct(name, parameter.dtype, arg)
    return _number(name, parameter.dtype, arg)


def _struct(name: str, dtype: np.dtype, arg: Any) -> Any:
    if not isinstance(arg, Mapping) or arg.keys() != set(dtype.names or ()):
        raise DTypeError(f"{name} is a struct: expected a mapping of {', '.join(dtype.names or ())}, got {arg!r}")
    members = tuple(_number(f"{name}.{member}", dtype[member], arg[member]) for member in dtype.names or ())
    return np.array(members, dtype)[()]


def _number(name: str, dtype: np.dtype, arg: Any) -> Any:
    if isinstance(arg, (bool, np.bool_)):
        arg = int(arg)
    if not isinstance(arg, (int, float, np.number)):
        raise DTypeError(f"{name} is a number: got {type(arg).__name__}")
    if dtype.kind == "f":
        return dtype.type(arg)
    limits = np.iinfo(dtype)
    if not isinstance(arg, (int, np.integer)) or not limits.min <= arg <= limits.max:
        raise DTypeError(f"{name} must be an integer in [{limits.min}, {limits.max}], got {arg!r}")
    return dtype.type(arg)


# --- memory -----------------------------------------------------------------------------------------------------------


def empty(shape: int | Sequence[int], dtype: Any, like: Array) -> Array:
    """A new array on the device of `like`, to be filled by a kernel."""
    return cuda_backend_of(like).empty(shape, dtype)


def empty_like(array: Array) -> Array:
    """A new C-contiguous array of the shape, dtype and device of `array`, to be filled by a kernel."""
    return empty(array.shape, array.dtype, array)


def zeros(shape: int | Sequence[int], dtype: Any, like: Array) -> Array:
    """A new array of zeros on the device of `like`."""
    return cuda_backend_of(like).zeros(shape, dtype)


def contiguous(array: Array) -> Array:
    """`array` itself if it is C-contiguous, else a copy that is."""
    return array if array.flags.c_contiguous else cuda_backend_of(array).copy(array)


def converted(array: Array, dtype: Any) -> Array:
    """`array` itself if it is C-contiguous and of `dtype`, else a copy that is."""
    return contiguous(array if array.dtype == dtype else cuda_backend_of(array).asarray(array, dtype))


def scalar(value: Any, dtype: Any) -> tuple[Array | None, Any]:
    """`value` as the pair of arguments (pointer, number) that ``value_or`` of ``common.cuh`` takes.

    An array of one element, which only the kernel reads, goes in as the pointer, converted to `dtype` if need be.
    """
    if hasattr(value, "ndim") and not isinstance(value, np.generic):
        return converted(value, dtype), 0
    return None, value


def ceil_div(items: int, per_block: int) -> int:
    """Number of blocks that `items` take."""
    return -(-items // per_block)
