"""Exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gpunet.backend import Array, Scalar
from gpunet.checks import check_number
from gpunet.ops.optimizer import ema_update
from gpunet.optim import _slots

if TYPE_CHECKING:
    from gpunet.nn.parameter import FlatParameters


class WeightAverage:
    """Exponential moving average of a model's parameters and buffers (batch norm's running statistics).

    It starts as a copy of them. Step t (1 for the first) uses ``decay_t = min(decay, (1 + t) / (10 + t))``, so that the
    initial values are soon forgotten, as with num_updates of TensorFlow's ExponentialMovingAverage. On averaging
    iterates: Polyak & Juditsky 1992.

    Raises:
        ConfigError: `decay` is not in [0, 1).

    >>> model = gn.nn.Linear(1, 1, init=gn.nn.Constant(3.0)).initialize()
    >>> average = gn.optim.WeightAverage(model.flat, decay=0.999)
    >>> model.weight.value[:] = 14
    >>> average.update(step=1)
    >>> with average.applied():
    ...     model.weight.value.round(4)  # 2/11 * 3 + 9/11 * 14
    array([[12.]], dtype=float32)
    >>> model.weight.value
    array([[14.]], dtype=float32)
    """

    def __init__(self, flat: FlatParameters, decay: float) -> None:
        self.flat = flat
        self.decay = check_number("decay", decay, low=0, high=1, high_open=True)
        self._slots = {"values": flat.backend.copy(flat.values), "state": flat.backend.copy(flat.state)}

    def update(self, step: Scalar) -> None:
        """Update the average with the model's current values; `step` is an int or a one-element array on the device."""
        ema_update(self._slots["values"], self.flat.values, decay=self.decay, step=step)
        ema_update(self._slots["state"], self.flat.state, decay=self.decay, step=step)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged values; on exit its own are restored, bit for bit.

        Changes that the block makes to the model's values are lost.
        """
        flat, backend = self.flat, self.flat.backend
        values, state = backend.copy(flat.values), backend.copy(flat.state)
        backend.assign(flat.values, self._slots["values"])
        backend.assign(flat.state, self._slots["state"])
        try:
            yield
        finally:
            backend.assign(flat.values, values)
            backend.assign(flat.state, state)

    def slots(self) -> dict[str, Array]:
        """The averages, laid out like ``flat.values`` and ``flat.state``; not copies."""
        return dict(self._slots)

    def load_slots(self, tensors: Mapping[str, Array]) -> None:
        """Restore the averages from saved :meth:`slots`; nothing changes unless all names and shapes match.

        Raises:
            CheckpointError: a name is missing or unexpected, or a shape differs.
        """
        _slots.load("the average of the weights", self._slots, tensors, self.flat.backend)
