"""CUDA: finds the sources of ``kernels/``, compiles them when they are first needed, and launches them.

Only ``gpunet/ops/*/cuda.py`` launches kernels. Beside it, the backend captures a step, training sets the precision, and
``gpunet warmup`` compiles ahead. CuPy is not imported before a kernel is compiled for a GPU.
"""

from gpunet.cuda._precision import PRECISIONS, precision, use_precision
from gpunet.cuda.launcher import (
    ceil_div,
    compile_source,
    contiguous,
    empty,
    empty_like,
    is_compiled,
    launch,
    scalar,
    zeros,
)
from gpunet.cuda.runtime import Runtime, register_runtime, runtime_of
from gpunet.cuda.sources import Kernel, Parameter, kernels, source_names, source_text, specialisations

__all__ = [
    "PRECISIONS",
    "Kernel",
    "Parameter",
    "Runtime",
    "ceil_div",
    "compile_source",
    "contiguous",
    "empty",
    "empty_like",
    "is_compiled",
    "kernels",
    "launch",
    "precision",
    "register_runtime",
    "runtime_of",
    "scalar",
    "source_names",
    "source_text",
    "specialisations",
    "use_precision",
    "zeros",
]
