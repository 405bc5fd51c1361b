"""Runs small CUDA sources that the emulator's tests hold as strings."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpunet.cuda.sources import Kernel, Parameter
from tests.emulator import EMULATED, RUNTIME
from tests.emulator.runtime import Module

Dim3 = tuple[int, int, int]


@functools.cache
def compiled(text: str, *flags: str) -> Module:
    return RUNTIME.compile_text(text, {}, name="planted", flags=flags)


def launch(
    text: str,
    kernel: str,
    *args: Any,
    block: int | Dim3 = 32,
    grid: int | Dim3 = 1,
    shared: int = 0,
    seed: int = 0,
    flags: tuple[str, ...] = (),
) -> None:
    """Launch `kernel` of the source `text`; the parameters are as the arguments are: arrays, None, NumPy scalars, also
    of structured dtypes."""
    types = (np.dtype("f4") if arg is None else arg.dtype for arg in args)
    parameters = tuple(
        Parameter(f"p{i}", dtype, arg is None or isinstance(arg, np.ndarray), False)
        for i, (arg, dtype) in enumerate(zip(args, types, strict=True))
    )
    before, RUNTIME.seed = RUNTIME.seed, seed
    try:
        RUNTIME.launch(compiled(text, *flags), Kernel(kernel, parameters), _dim3(grid), _dim3(block), args, shared)
    finally:
        RUNTIME.seed = before


def device(values: Any, dtype: Any = np.float32) -> Any:
    return EMULATED.asarray(np.asarray(values, dtype))


def output(*shape: int, dtype: Any = np.float32) -> Any:
    return EMULATED.empty(shape, dtype)


def _dim3(size: int | Dim3) -> Dim3:
    return (size, 1, 1) if isinstance(size, int) else size
