"""Training state that changes from step to step; kept on the device, so that a captured step can be replayed."""

from __future__ import annotations

import numpy as np

from gpunet.backend import Array
from gpunet.checks import check_float, check_int, check_shape
from gpunet.errors import DTypeError
from gpunet.ops._dispatch import implementation

COUNTERS = ("step", "position", "start", "correct", "failed")
"""Entries of `counters`: completed steps of the training and of the epoch, position of the next batch's first image,
correct predictions in the epoch, and number of its first failed step, or -1."""
NUMBERS = ("lr", "loss_sum")
"""Entries of `numbers`: learning rate of the current step, and sum of the epoch's losses."""
_INT64, _FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)
_ONE = (1,)


def advance_step(
    counters: Array, numbers: Array, rates: Array, loss: Array, correct: Array, scale: Array, *, batch_size: int
) -> None:
    """Accumulate the results of a step and advance the counters, all **in place**.

    ``loss_sum += loss``, ``correct += correct``, ``lr = rates[position]`` (past the end, the last rate); then step and
    position are incremented by one and start by `batch_size`.

    A step with a non-finite loss or `scale` has failed. The first one is recorded in ``failed``; from it to the end of
    the epoch, ``loss_sum`` and `scale` are NaN, so that no parameter is updated.

    Args:
        counters: int64 (5,), see :data:`gpunet.ops.step_state.COUNTERS`.
        numbers: float64 (2,), see :data:`gpunet.ops.step_state.NUMBERS`.
        rates: float64 (n,), the learning rates of the epoch's steps.
        loss: one element, float32 or float64.
        correct: one element, int64.
        scale: one element of the dtype of `loss`, the factor of the gradients: see :func:`gpunet.ops.gradient_scale`.
        batch_size: images per step.

    Raises:
        ShapeError, DTypeError, DeviceError, ConfigError: the arrays are not as above.

    >>> counters, numbers = np.array([0, 0, 0, 0, -1]), np.zeros(2)
    >>> one, rates = np.ones(1, np.float32), np.array([0.5, 0.25])
    >>> gn.ops.advance_step(counters, numbers, rates, one, np.array([3]), one, batch_size=4)
    >>> counters, numbers  # one step, the next batch starts at image 4, 3 were right; rate and sum of losses
    (array([ 1,  1,  4,  3, -1]), array([0.5, 1. ]))
    """
    impl = implementation(__name__, counters, numbers, rates, loss, correct, scale)
    check_float(loss=loss, scale=scale)
    expected = (
        ("counters", counters, (len(COUNTERS),), _INT64),
        ("numbers", numbers, (len(NUMBERS),), _FLOAT64),
        ("rates", rates, (max(1, rates.size),), _FLOAT64),
        ("loss", loss, _ONE, loss.dtype),
        ("correct", correct, _ONE, _INT64),
        ("scale", scale, _ONE, loss.dtype),
    )
    for name, array, shape, dtype in expected:
        if array.shape != shape and not (shape is _ONE and array.size == 1):
            check_shape(name, array, shape)
        if array.dtype != dtype:
            raise DTypeError(f"{name} must be {dtype}, got {array.dtype}")
    impl.advance_step(counters, numbers, rates, loss, correct, scale, check_int("batch_size", batch_size, low=1))
