"""The state of a training that changes from step to step: on the device, so that a captured step can be replayed."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.checks import check_float, check_int, check_shape
from gpunet.errors import DTypeError
from gpunet.ops._dispatch import implementation

COUNTERS = ("step", "position", "start", "correct", "failed")
"""Entries of `counters`: finished steps of the training, finished steps of the epoch, position of the next batch's
first image, right predictions of the epoch, and the number of its first step whose loss was not finite, or -1."""
NUMBERS = ("lr", "loss_sum")
"""Entries of `numbers`: learning rate of the running step, and the sum of the epoch's losses."""


def advance_step(
    counters: Array, numbers: Array, rates: Array, loss: Array, correct: Array, *, batch_size: int
) -> None:
    """Take in the loss of a step's forward pass, and move on, all **in place**.

    ``loss_sum += loss``, ``correct += correct``, ``lr = rates[position]`` (the last rate, past the end), then step and
    position move on by one and start by `batch_size`. A loss that is not finite is noted in ``failed``.

    Args:
        counters: int64 (5,), see :data:`COUNTERS`.
        numbers: float64 (2,), see :data:`NUMBERS`.
        rates: float64 (n,), the learning rates of the epoch's steps.
        loss: one element, float32 or float64.
        correct: one element, int64.
        batch_size: images of a step.

    Raises:
        ShapeError, DTypeError, DeviceError, ConfigError: the arrays are not as above.
    """
    impl = implementation(__name__, counters, numbers, rates, loss, correct)
    check_float(loss=loss)
    expected = (
        ("counters", counters, (len(COUNTERS),), "int64"),
        ("numbers", numbers, (len(NUMBERS),), "float64"),
        ("rates", rates, (max(1, rates.size),), "float64"),
        ("loss", loss.reshape(-1), (1,), loss.dtype),
        ("correct", correct.reshape(-1), (1,), "int64"),
    )
    for name, array, shape, dtype in expected:
        check_shape(name, array, shape)
        if array.dtype != dtype:
            raise DTypeError(f"{name} must be {dtype}, got {array.dtype}")
    impl.advance_step(counters, numbers, rates, loss, correct, check_int("batch_size", batch_size, low=1))
