"""The few element-wise kernels of CuPy that gpunet's code and tests launch, by NumPy."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np

from tests.cuda_double.library import report, usable

_BINARY = {
    f"cupy_{name}": getattr(np, name)
    for name in (
        *("add", "subtract", "multiply", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
        *("maximum", "minimum", "true_divide", "power", "logical_and", "logical_or"),
    )
}
_UNARY = {f"cupy_{name}": getattr(np, name) for name in ("isfinite", "isnan", "negative", "absolute", "sqrt")}
_PYTHON = {"bool": "bool", "int": "int64", "float": "float64", "complex": "complex128"}
"""CuPy's names of Python's numbers, which are passed by value in the type that they are computed in."""


_NOT_SUPPORTED, _ILLEGAL_ADDRESS = 801, 700  # cudaError_t


def run(name: str, arguments: list[bytes]) -> int:
    """Run a kernel by its name, such as ``cupy_add__float32_float32_float32``; 0, or CUDA's error after a report.

    The last argument is CuPy's indexer, which the shape of the output says as well.
    """
    base, _, rest = name.partition("__")
    types = rest.split("_") if rest else []
    operations: dict[str, Any] = {"cupy_copy": lambda x: x, **_UNARY, **_BINARY}
    if base == "cupy_fill":
        return 0 if _fill(arguments) else _ILLEGAL_ADDRESS
    if base not in operations or len(types) != len(arguments) - 1:
        report(f"the CUDA double has no {name} with arguments of {[len(data) for data in arguments]} bytes")
        return _NOT_SUPPORTED
    *inputs, target = [_operand(name, data, kind) for data, kind in zip(arguments, types, strict=False)]
    if target is None or any(value is None for value in inputs):
        return _ILLEGAL_ADDRESS
    with np.errstate(all="ignore"):
        result = operations[base](*inputs)
    np.copyto(target, np.reshape(result, target.shape) if np.size(result) == target.size else result, casting="unsafe")
    return 0


def _fill(arguments: list[bytes]) -> bool:
    """A value of any type is written to all elements: copied byte by byte."""
    value, array, *_ = arguments
    target = _array("cupy_fill", array, np.dtype(f"V{len(value)}"))
    if target is None:
        return False
    target[...] = np.frombuffer(value, target.dtype)[0]
    return True


def _operand(name: str, data: bytes, kind: str) -> Any:
    """An array, or a number by value; None, and a report, for an array in memory that may not be touched."""
    if len(data) > 8:
        return _array(name, data, np.dtype(_PYTHON.get(kind, kind)))
    dtype = np.dtype(_PYTHON.get(kind, kind))
    if dtype.itemsize != len(data):  # a Python number in the type of the computation
        dtype = np.dtype(f"{dtype.kind if dtype.kind != 'b' else 'u'}{len(data)}")
    return np.frombuffer(data, dtype)[0]


def _array(name: str, data: bytes, dtype: np.dtype) -> np.ndarray | None:
    """CuPy's CArray: address, number of elements, shape, strides in bytes."""
    address, size, *rest = struct.unpack(f"<{len(data) // 8}q", data)
    shape, strides = tuple(rest[: len(rest) // 2]), tuple(rest[len(rest) // 2 :])
    if not size:
        return np.empty(shape or (0,), dtype)
    if not shape and size > 1:
        shape, strides = (size,), (dtype.itemsize,)
    steps = [(length - 1) * stride for length, stride in zip(shape, strides, strict=True)]
    first = address + sum(step for step in steps if step < 0)
    extent = sum(abs(step) for step in steps) + dtype.itemsize
    if not usable(first, extent, name):
        return None
    buffer = (ctypes.c_char * extent).from_address(first)
    return np.ndarray(shape, dtype, buffer, address - first, strides)
