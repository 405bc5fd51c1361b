"""Dropout."""

from __future__ import annotations

from gpunet import ops
from gpunet.backend import Array
from gpunet.nn.layer import Backward, Layer, Mode
from gpunet.ops import random
from gpunet.ops._checks import check_number


class Dropout(Layer):
    """Sets each input to zero with probability `p` in training and scales the rest by 1 / (1 - p).

    Srivastava et al., 2014. The mask is a function of the seed, the step and the place of the layer in the model alone.
    """

    elementwise = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_number("p", p, low=0, high=1, high_open=True)
        self._stream = random.DROPOUT

    def place(self, index: int) -> None:
        self._stream = random.DROPOUT + index

    def forward(self, x: Array, mode: Mode) -> tuple[Array, Backward]:
        if not mode.training or self.p == 0:
            return x, lambda dy: dy
        y, mask = ops.dropout(x, self.p, seed=mode.seed, step=mode.step, stream=self._stream)
        return y, lambda dy: ops.dropout_backward(dy, mask, self.p)
