"""The state of a training that changes from step to step: on the device, so that a captured step can be replayed."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.checks import check_float, check_int, check_shape
from gpunet.errors import DTypeError
from gpunet.ops._dispatch import implementation

COUNTERS = ("step", "position", "start", "correct", "failed")
"""Entries of `counters`: finished steps of the training, finished steps of the epoch, position of the next batch's
first image, right predictions of the epoch, and the number of its first step that failed, or -1."""
NUMBERS = ("lr", "loss_sum")
"""Entries of `numbers`: learning rate of the running step, and the sum of the epoch's losses."""


def advance_step(
    counters: Array, numbers: Array, rates: Array, loss: Array, correct: Array, scale: Array, *, batch_size: int
) -> None:
    """Take in what a step's forward and backward passes gave, and move on to the next step, all **in place**.

    ``loss_sum += loss``, ``correct += correct``, ``lr = rates[position]`` (the last rate, past the end), then step and
    position move on by one and start by `batch_size`.

    A step whose loss or `scale` is not finite has failed. The number of the first is noted in ``failed``; from it to
    the end of the epoch ``loss_sum`` and `scale` are NaN, so that nothing is updated any more.

    Args:
        counters: int64 (5,), see :data:`COUNTERS`.
        numbers: float64 (2,), see :data:`NUMBERS`.
        rates: float64 (n,), the learning rates of the epoch's steps.
        loss: one element, float32 or float64.
        correct: one element, int64.
        scale: one element of the dtype of `loss`, the factor of the gradients: see :func:`gpunet.ops.gradient_scale`.
        batch_size: images of a step.

    Raises:
        ShapeError, DTypeError, DeviceError, ConfigError: the arrays are not as above.
    """
    impl = implementation(__name__, counters, numbers, rates, loss, correct, scale)
    check_float(loss=loss, scale=scale)
    expected = (
        ("counters", counters, (len(COUNTERS),), "int64"),
        ("numbers", numbers, (len(NUMBERS),), "float64"),
        ("rates", rates, (max(1, rates.size),), "float64"),
        ("loss", loss.reshape(-1), (1,), loss.dtype),
        ("correct", correct.reshape(-1), (1,), "int64"),
        ("scale", scale.reshape(-1), (1,), loss.dtype),
    )
    for name, array, shape, dtype in expected:
        check_shape(name, array, shape)
        if array.dtype != dtype:
            raise DTypeError(f"{name} must be {dtype}, got {array.dtype}")
    impl.advance_step(counters, numbers, rates, loss, correct, scale, check_int("batch_size", batch_size, low=1))
