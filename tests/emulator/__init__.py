"""A CUDA device emulated on the CPU, on which gpunet's CUDA path runs as on a GPU: for tests. README.md explains it."""

from gpunet.backend import Backend, register_array_type
from gpunet.cuda import register_runtime
from tests.emulator.array import EmulatedArray, EmulatedModule
from tests.emulator.build import EmulationError, missing, sanitized_environment
from tests.emulator.runtime import EmulatedRuntime

RUNTIME = EmulatedRuntime()
EMULATED = Backend(device="emulated:0", xp=EmulatedModule(), implementation="cuda")

register_runtime(EMULATED.device, RUNTIME)
register_array_type(EmulatedArray, lambda array: EMULATED)

__all__ = ["EMULATED", "RUNTIME", "EmulatedArray", "EmulationError", "missing", "sanitized_environment"]
