"""Python's part of the double: reads machine code, checks arguments, and runs kernels."""

from __future__ import annotations

import atexit
import ctypes
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.cuda_double import at_exit, cubin, cupy_kernels
from tests.cuda_double.library import FIND, LOAD, RUN, Hooks, library, report, usable

_INVALID_VALUE, _ILLEGAL_ADDRESS, _LAUNCH_FAILURE = 1, 700, 719  # cudaError_t
_CAPTURED = 1


@dataclass
class _Module:
    """A loaded image."""

    codes: dict[str, cubin.Code]
    source: tuple[str, dict[str, str]] | None
    """Name and defines, if it is one of gpunet's."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Of its functions that were asked for."""


@dataclass
class _Function:
    name: str
    code: cubin.Code
    module: _Module
    compiled: Any = None
    """gpunet's kernel and its module on the emulator, once it has run."""


_modules: list[_Module] = []
_functions: list[_Function] = []
_sources: dict[bytes, tuple[str, dict[str, str]] | None] = {}
"""What an image was compiled from: CuPy loads it again on another device, later than it is compiled."""


def connect() -> None:
    """Load the library, and hand it the hooks below."""
    library().cuda_double_connect(_HOOKS)
    atexit.register(at_exit.finish)


def _guarded(failure: int, function: Callable[..., int]) -> Callable[..., int]:
    """`function` for C, which cannot take an exception."""

    def call(*args: Any) -> int:
        try:
            return function(*args)
        except Exception as error:
            traceback.print_exc()
            report(f"{function.__name__.strip('_')}: {error!r}")
            return failure

    return call


def _load(image: int, size: int) -> int:
    code = ctypes.string_at(image, size)
    source = _sources[code] = _source_being_compiled() or _sources.get(code)
    _modules.append(_Module(cubin.read(code), source))
    return len(_modules)


def _source_being_compiled() -> tuple[str, dict[str, str]] | None:
    """The arguments of the ``CupyRuntime.compile`` that this image is loaded by: it does not name its source."""
    runtime = sys.modules.get("gpunet.cuda.cupy_runtime")
    frame = sys._getframe()
    while runtime is not None and frame is not None:
        if frame.f_code is runtime.CupyRuntime.compile.__code__:
            return frame.f_locals["source"], dict(frame.f_locals["defines"])
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _find(number: int, name: bytes) -> int:
    module, text = _modules[number - 1], name.decode()
    code = module.codes.get(text)
    if code is None:
        return 0
    if text not in module.numbers:
        _functions.append(_Function(text, code, module))
        module.numbers[text] = len(_functions)
        sizes = (ctypes.c_int * len(code.sizes))(*code.sizes)
        library().cuda_double_describe(len(_functions), name, len(code.sizes), sizes, code.shared, code.max_threads)
    return module.numbers[text]


def _run(number: int, shape: Any, arguments: Any, when: int) -> int:
    function = _functions[number - 1]
    raw = [ctypes.string_at(arguments[i], size) for i, size in enumerate(function.code.sizes)]
    if function.module.source is not None:
        return _run_gpunets(function, [shape[i] for i in range(7)], raw, when)
    return 0 if when == _CAPTURED else cupy_kernels.run(function.name, raw)


def _run_gpunets(function: _Function, shape: list[int], raw: list[bytes], when: int) -> int:
    """Run a kernel of gpunet on the emulator; if it is captured, only look at its arguments."""
    from gpunet.cuda import kernels
    from tests.emulator import RUNTIME, EmulationError

    source, defines = function.module.source or ("", {})
    kernel = kernels(source, defines)[function.name]
    declared = [8 if parameter.pointer else parameter.dtype.itemsize for parameter in kernel.parameters]
    if declared != function.code.sizes:
        report(f"{kernel.name}: arguments of {declared} bytes, the machine code takes {function.code.sizes}")
        return _INVALID_VALUE
    values = [_value(parameter, data) for parameter, data in zip(kernel.parameters, raw, strict=True)]
    for parameter, value in zip(kernel.parameters, values, strict=True):
        what = f"{kernel.name}({parameter.name})"
        if parameter.pointer and value and not usable(value, parameter.dtype.itemsize, what):
            return _ILLEGAL_ADDRESS
    if when == _CAPTURED:
        return 0
    if function.compiled is None:
        function.compiled = RUNTIME.compile(source, defines)
    try:
        x, y, z, *block, shared = shape
        RUNTIME.run(function.compiled, kernel, (x, y, z), tuple(block), shared, values)
    except EmulationError as error:
        report(str(error))
        return _LAUNCH_FAILURE
    return 0


def _value(parameter: Any, data: bytes) -> Any:
    """An argument as the emulator takes it: an address, a number, or the bytes of a struct."""
    if parameter.pointer:
        return struct.unpack("<Q", data)[0]
    return data if parameter.dtype.fields else np.frombuffer(data, parameter.dtype)[0].item()


_HOOKS = Hooks(LOAD(_guarded(0, _load)), FIND(_guarded(0, _find)), RUN(_guarded(_LAUNCH_FAILURE, _run)))
