"""The state that changes from step to step, on the device, so that a captured step can be replayed without the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpunet import ops
from gpunet.backend import Array, Backend
from gpunet.ops.step_state import COUNTERS, NUMBERS


@dataclass(frozen=True)
class EpochTotals:
    """Sums over the steps of the current epoch so far."""

    steps: int
    loss: float
    """Sum of the losses."""
    correct: int
    failed: int | None
    """Index, from 0 over the whole training, of the first step with a non-finite loss or gradient, or None."""

    @property
    def finite(self) -> bool:
        return self.failed is None and math.isfinite(self.loss)


class StepState:
    """Counters, learning rate and sums of a training run, in fixed arrays on the device.

    Attributes:
        step, start: (1,) int64, number of finished steps in the run and position of the next batch.
        arrays: by name, all that a running epoch needs to go on, once :meth:`start_epoch` was called for it.
        lr: (1,) float64, learning rate of the current step, once :meth:`advance` was called in it.
        loss_sum: (1,) float64.
    """

    def __init__(self, backend: Backend, *, steps_per_epoch: int, batch_size: int) -> None:
        self._backend, self._batch_size = backend, batch_size
        self._counters = backend.zeros(len(COUNTERS), "int64")
        self._numbers = backend.zeros(len(NUMBERS), "float64")
        self._rates = backend.zeros(steps_per_epoch, "float64")
        self.arrays = {"counters": self._counters, "numbers": self._numbers}
        self.step, self.start = self._counters[0:1], self._counters[2:3]
        self.lr, self.loss_sum = self._numbers[0:1], self._numbers[1:2]

    def start_epoch(self, step: int, rates: Sequence[float]) -> None:
        """Begin an epoch after `step` finished steps, with the learning rates of its steps."""
        self._backend.assign(self._counters, np.array([step, 0, 0, 0, -1], np.int64))
        self._backend.assign(self._numbers, np.array([rates[0], 0.0]))
        self.resume_epoch(rates)

    def resume_epoch(self, rates: Sequence[float]) -> None:
        """Go on with an epoch whose counters are in :attr:`arrays`, with the learning rates of all its steps."""
        self._backend.assign(self._rates, np.array(rates, np.float64))

    def advance(self, loss: Array, correct: Array, scale: Array) -> None:
        """Add a step's loss and number of correct predictions to the sums, and advance to the next step.

        `scale` is the factor of its gradients, set to NaN if the step or an earlier one of the epoch failed.
        """
        ops.advance_step(self._counters, self._numbers, self._rates, loss, correct, scale, batch_size=self._batch_size)

    def totals(self) -> EpochTotals:
        """The sums so far; waits for the device."""
        _, position, _, correct, failed = self._backend.to_numpy(self._counters).tolist()
        loss_sum = float(self._backend.to_numpy(self._numbers)[1])
        return EpochTotals(position, loss_sum, correct, None if failed < 0 else failed)
