"""The runtime of the emulated device: compiles, launches and captures."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gpunet.backend import Result
from gpunet.cuda.runtime import Dim3
from gpunet.cuda.sources import Defines, Kernel, Parameter, source_text
from tests.emulator import recording
from tests.emulator.array import current_device, poison
from tests.emulator.build import FTZ, EmulationError, build
from tests.emulator.recording import Recording, forbid

_CODES = {"f": {4: "f", 8: "d"}, "i": {4: "i", 8: "q"}, "u": {1: "B", 4: "I", 8: "Q"}}


class Module:
    """A compiled source."""

    def __init__(self, name: str, defines: Defines, library: ctypes.PyDLL) -> None:
        self.name, self.defines = name, tuple(sorted(defines.items()))
        self._library = library
        self._functions: dict[str, tuple[Any, struct.Struct]] = {}

    def function(self, kernel: Kernel) -> tuple[Any, struct.Struct]:
        """The entry of a kernel, which takes packed arguments and returns None or an error, and how to pack them.

        Raises:
            EmulationError: the compiler sees other parameters than `kernel` declares.
        """
        found = self._functions.get(kernel.name)
        if found is None:
            codes = [_code(parameter) for parameter in kernel.parameters]
            types = self._entry(f"emulator_types_{kernel.name}")()
            if types.decode() != "".join(codes):
                raise EmulationError(f"{kernel.name} has parameters {types.decode()}, but was read as {''.join(codes)}")
            launch = self._entry(f"emulator_launch_{kernel.name}")
            launch.argtypes = [ctypes.c_char_p]
            slots = "".join(code + "x" * (-struct.calcsize(code) % 8) for code in codes)
            found = self._functions[kernel.name] = launch, struct.Struct(f"=6IQQQ{slots.replace('P', 'Q')}")
        return found

    def _entry(self, name: str) -> Any:
        entry = getattr(self._library, name)
        entry.restype = ctypes.c_char_p
        return entry


def _code(parameter: Parameter) -> str:
    """The type of a parameter as :mod:`struct` names it; a struct is so many bytes."""
    if parameter.dtype.fields and not parameter.pointer:
        return f"{parameter.dtype.itemsize}s"
    return "P" if parameter.pointer else _CODES[parameter.dtype.kind][parameter.dtype.itemsize]


def _value(arg: Any) -> Any:
    if arg is None:
        return 0
    if isinstance(arg, np.void):
        return arg.tobytes()
    return arg.__array_interface__["data"][0] if isinstance(arg, np.ndarray) else arg.item()


class EmulatedRuntime:
    """Kernels as ordinary functions of this process.

    Args:
        index: number of the device.

    Attributes:
        seed: the order in which threads and blocks run; 0 is by number.
        flush_denormals: whether kernels take and give zeros for denormal numbers, as if compiled with ``-ftz=true``.
        launched: (source, kernel, defines, seed) of everything that has run; defines are sorted pairs.
    """

    hardware = "the emulator"

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.seed = 0
        self.flush_denormals = os.environ.get(FTZ) == "1"
        self.launched: set[tuple[str, str, tuple[tuple[str, str], ...], int]] = set()

    def active(self) -> AbstractContextManager[None]:
        return current_device(self.index)

    def compile(self, source: str, defines: Defines) -> Module:
        return self.compile_text(source_text(source), defines, name=source)

    def compile_text(self, text: str, defines: Defines, *, name: str = "source", flags: tuple[str, ...] = ()) -> Module:
        """Compile a text that is not in the folder of the kernels."""
        return Module(name, defines, build(text, defines, flags=flags))

    def run(self, module: Module, kernel: Kernel, grid: Dim3, block: Dim3, shared: int, values: list[Any]) -> None:
        """Run a kernel at once. `values` are addresses, numbers and the bytes of structs.

        Raises: as :meth:`launch`.
        """
        function, packer = module.function(kernel)
        try:
            packed = packer.pack(*grid, *block, shared, self.seed, self.flush_denormals, *values)
        except struct.error as error:
            raise EmulationError(f"{kernel.name}: bad launch, grid {grid}, block {block}, shared {shared}") from error
        problem = function(packed)
        if problem is not None:
            raise EmulationError(f"{kernel.name}: {problem.decode(errors='replace')}")

    def launch(
        self, module: Module, kernel: Kernel, grid: Dim3, block: Dim3, args: tuple[Any, ...], shared: int
    ) -> None:
        """Run a kernel to its end, or record it while a graph is captured.

        Raises:
            EmulationError: the launch or what the kernel did is not legal.
        """
        module.function(kernel)  # a wrong signature is found before anything is recorded
        values = [_value(arg) for arg in args]
        self.launched.add((module.name, kernel.name, module.defines, self.seed))

        def run() -> None:
            self.run(module, kernel, grid, block, shared, values)

        if recording.current is None:
            run()
        else:
            recording.current.work.append(run)
            recording.current.used.append(args)

    def capture(self, step: Callable[[], Result]) -> Callable[[], Result]:
        return _Graph(self, step)

    def memory_left(self) -> int | None:
        return None

    def synchronize(self) -> None:
        forbid("synchronize()")


class _Graph:
    """A step that runs as it is at first, is recorded at its second call, and from then on is what was recorded."""

    def __init__(self, runtime: EmulatedRuntime, step: Callable[[], Any]) -> None:
        self._runtime, self._step = runtime, step
        self._result: Any = None
        self._warm = False
        self._recording: Recording | None = None

    def __call__(self) -> Any:
        forbid("a captured step")
        with self._runtime.active():
            self._run()
        return self._result

    def _run(self) -> None:
        if not self._warm:
            self._result = self._step()
            self._warm = True
            return
        if self._recording is None:
            self._recording = self._record()
        for array in self._recording.owned:
            poison(array)
        for work in self._recording.work:
            work()

    def _record(self) -> Recording:
        recorded = recording.current = Recording()
        try:
            self._result = self._step()
        finally:
            recording.current = None
        return recorded
