"""CUDA: :class:`CudaBackend` is a device that finds, compiles and launches the sources of ``kernels/``.

``gpunet/ops/*/cuda.py`` launches kernels, :mod:`gpunet.devices` chooses a GPU; nothing else imports this package. CuPy
is not imported before a GPU is chosen.
"""

from gpunet.cuda.backend import CudaBackend, cuda_backend_of
from gpunet.cuda.launcher import (
    ceil_div,
    contiguous,
    converted,
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
    "converted",
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
