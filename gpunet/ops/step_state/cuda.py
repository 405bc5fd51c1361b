"""The step's bookkeeping on the GPU: one launch of ``kernels/step_state.cu``."""

from __future__ import annotations

from gpunet import cuda
from gpunet.backend import Array


def advance_step(
    counters: Array, numbers: Array, rates: Array, loss: Array, correct: Array, scale: Array, batch_size: int
) -> None:
    arguments = counters, numbers, rates, rates.size, loss, correct, scale, batch_size
    cuda.launch("step_state", "advance_step", 1, 1, *arguments, real=loss.dtype)
