"""Devices that run the CUDA sources."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpunet.backend import Array, Backend, Collectives, Result, backend_of, register_array_type
from gpunet.cuda import sources
from gpunet.cuda.runtime import Runtime
from gpunet.cuda.sources import Defines
from gpunet.errors import ConfigError, DeviceError


class CudaBackend(Backend):
    """CuPy arrays and the CUDA sources of ``kernels/``, compiled and launched by `runtime`."""

    implementation = "cuda"
    steps_between_reads = 50

    def __init__(self, device: str, xp: Any, runtime: Runtime) -> None:
        super().__init__(device, xp)
        self.runtime = runtime
        self._modules: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        self._listeners: list[Callable[[str], None]] = []

    def active(self) -> contextlib.AbstractContextManager[Any]:
        return self.runtime.active()

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        with self.active():
            # The array module hands an array of another of its devices back as it is; a copy moves.
            moved = array.copy() if self._is_elsewhere(array) else array
            return super().asarray(moved, dtype)

    def _is_elsewhere(self, array: Any) -> bool:
        return isinstance(array, self.xp.ndarray) and backend_of(array) is not self

    def to_numpy(self, array: Any) -> np.ndarray:
        with self.active():
            return np.asarray(array.get() if hasattr(array, "get") else array)

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        with self.active():
            array: Array = self.xp.empty(shape, dtype)
        return array

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        with self.active():
            array: Array = self.xp.zeros(shape, dtype)
        return array

    def capture(self, step: Callable[[], Result], *, only_ops: bool = False) -> Callable[[], Result]:
        return self.runtime.capture(step) if self.captures else step

    def collectives(self, rank: int, size: int, broadcast: Callable[[Any], Any]) -> Collectives | None:
        return self.runtime.collectives(rank, size, broadcast)

    def synchronize(self) -> None:
        self.runtime.synchronize()

    def memory_left(self) -> int | None:
        return self.runtime.memory_left()

    @property
    def hardware(self) -> str:
        return self.runtime.hardware

    def module(self, source: str, defines: Defines) -> Any:
        """The compiled `source`; compiled once a process, and cached on disk by CuPy.

        Raises:
            ConfigError: the source does not declare this specialisation.
        """
        key = source, tuple(sorted(defines.items()))
        module = self._modules.get(key)
        if module is None:
            if dict(defines) not in sources.specialisations(source):
                raise ConfigError(
                    f"{source}.cu does not declare the specialisation {dict(defines)}; "
                    f"its '// compile:' line has {sources.specialisations(source)}"
                )
            for on_compile in self._listeners:
                on_compile(_label(source, defines))
            module = self._modules[key] = self.runtime.compile(source, defines)
        return module

    def compile_ahead(self, on_compile: Callable[[str, int], None]) -> bool:
        variants = [
            (source, defines) for source in sources.source_names() for defines in sources.specialisations(source)
        ]
        missing = [(source, defines) for source, defines in variants if not self._has(source, defines)]
        for source, defines in missing:
            on_compile(_label(source, defines), len(missing))
            self.module(source, defines)
        return True

    def _has(self, source: str, defines: Defines) -> bool:
        return (source, tuple(sorted(defines.items()))) in self._modules

    @contextlib.contextmanager
    def watch_compilation(self, on_compile: Callable[[str], None]) -> Iterator[None]:
        self._listeners.append(on_compile)
        try:
            yield
        finally:
            self._listeners.remove(on_compile)


def _label(source: str, defines: Defines) -> str:
    """Such as ``conv2d_gemm REAL=float TF32=1``."""
    return " ".join([source, *(f"{name}={value}" for name, value in defines.items())])


def cuda_backend_of(*arrays: Array | None) -> CudaBackend:
    """The backend on which all `arrays` live.

    Raises:
        DeviceError: they live on different devices, or on one that does not run CUDA kernels.
        DTypeError: something is not an array.
    """
    backend = backend_of(*arrays)
    if not isinstance(backend, CudaBackend):
        raise DeviceError(f"device {backend.device!r} does not run CUDA kernels")
    return backend


@functools.cache
def gpu(index: int) -> CudaBackend:
    """NVIDIA GPU number `index`, through CuPy."""
    import cupy

    from gpunet.cuda.cupy_runtime import CupyRuntime

    return CudaBackend(f"cuda:{index}", cupy, CupyRuntime(index))


def _of_cupy_array(array: Any) -> CudaBackend:
    return gpu(array.device.id)


register_array_type("cupy", _of_cupy_array)
