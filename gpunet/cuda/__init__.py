"""CUDA: finds the sources of ``kernels/``, compiles them when they are first needed, and launches them.

Only ``gpunet/ops/*/cuda.py`` launches kernels. Beside it, the backend captures a step, training sets the precision, and
``gpunet warmup`` compiles ahead. CuPy is not imported before a kernel is compiled for a GPU.
"""

from gpunet.cuda.backend import CudaBackend, cuda_backend_of
from gpunet.cuda.launcher import (
    ceil_div,
    contiguous,
    empty,
    empty_like,
    launch,
    scalar,
    zeros,
)
from gpunet.cuda.runtime import Runtime
from gpunet.cuda.sources import Kernel, Parameter, kernels, source_names, source_text, specialisations

__all__ = [
    "CudaBackend",
    "Kernel",
    "Parameter",
    "Runtime",
    "ceil_div",
    "contiguous",
    "cuda_backend_of",
    "empty",
    "empty_like",
    "kernels",
    "launch",
    "scalar",
    "source_names",
    "source_text",
    "specialisations",
    "zeros",
]
