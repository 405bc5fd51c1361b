"""Dropout."""

from __future__ import annotations

from gpunet import ops
from gpunet.backend import Array
from gpunet.checks import check_number
from gpunet.nn.layer import Backward, ForwardContext, Layer
from gpunet.ops import random


class Dropout(Layer):
    """Zeroes each input with probability `p` in training, and scales the others by 1 / (1 - p).

    Srivastava et al., 2014. The mask depends only on the seed, the step, the layer's index in the model and the
    row's number in the batch.

    >>> x = np.ones((2, 3), np.float32)
    >>> y, backward = gn.nn.Dropout(0.5).forward(x, gn.nn.ForwardContext(training=True))
    >>> bool(np.isin(y, [0, 2]).all())
    True
    >>> gn.nn.Dropout(0.5)(x) is x  # inference
    True
    """

    elementwise = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_number("p", p, low=0, high=1, high_open=True)
        self._stream = random.DROPOUT

    def place(self, index: int) -> None:
        self._stream = random.DROPOUT + index

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        if not ctx.training or self.p == 0:
            return x, lambda dy: dy
        first = ctx.first_row * (x.size // max(1, len(x)))
        y, mask = ops.dropout(x, self.p, seed=ctx.seed, step=ctx.step, stream=self._stream, first_element=first)
        return y, lambda dy: ops.dropout_backward(dy, mask, self.p)
