"""A CUDA device emulated on the CPU, on which gpunet's CUDA path runs as on a GPU: for tests. README.md explains it."""

from gpunet.backend import register_array_type
from gpunet.cuda import CudaBackend
from tests.emulator.array import EMULATED_MODULE, EmulatedArray
from tests.emulator.build import EmulationError, missing, sanitized_environment
from tests.emulator.runtime import EmulatedRuntime

RUNTIME = EmulatedRuntime()
EMULATED, SECOND = (
    CudaBackend(f"emulated:{runtime.index}", EMULATED_MODULE, runtime) for runtime in (RUNTIME, EmulatedRuntime(1))
)

register_array_type(EmulatedArray, lambda array: (EMULATED, SECOND)[array.device_index])

__all__ = ["EMULATED", "RUNTIME", "SECOND", "EmulatedArray", "EmulationError", "missing", "sanitized_environment"]
