"""A CUDA device emulated on the CPU, on which gpunet's CUDA path runs as on a GPU: for tests. README.md explains it."""

from gpunet.backend import register_array_type
from gpunet.cuda import CudaBackend
from tests.emulator.array import EmulatedArray, EmulatedModule
from tests.emulator.build import EmulationError, missing, sanitized_environment
from tests.emulator.runtime import EmulatedRuntime

RUNTIME = EmulatedRuntime()
EMULATED = CudaBackend("emulated:0", EmulatedModule(), RUNTIME)

register_array_type(EmulatedArray, lambda array: EMULATED)

__all__ = ["EMULATED", "RUNTIME", "EmulatedArray", "EmulationError", "missing", "sanitized_environment"]
