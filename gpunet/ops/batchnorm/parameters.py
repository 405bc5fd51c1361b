"""The parameters of batch normalisation and their checks, shared with the op that fuses it with pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gpunet.backend import Array, Gather
from gpunet.checks import check_float, check_number, check_out, check_shape
from gpunet.errors import ShapeError


class BatchNormParameters(NamedTuple):
    """All arguments of the forward pass besides `x`."""

    gamma: Array
    beta: Array
    running_mean: Array
    running_var: Array
    training: bool
    momentum: float
    eps: float
    gather: Gather | None = None

    def checked(self, x: Array) -> BatchNormParameters:
        """These parameters with plain numbers; raises if they do not match `x` or are out of range.

        ShapeError, too, for training with a single value per channel, whose variance is undefined, or none.
        """
        check_float(x=x, **dict(zip(self._fields[:4], self[:4], strict=True)))
        return self.of_shape(x.shape)

    def of_shape(self, shape: Sequence[int]) -> BatchNormParameters:
        """Likewise, for maps of this `shape`, whose dtype is not checked."""
        check_vectors(shape[-1], **dict(zip(self._fields[:4], self[:4], strict=True)))
        momentum = check_number("momentum", self.momentum, low=0, high=1)
        eps = check_number("eps", self.eps, low=0, low_open=True)
        if self.training and self.gather is None and math.prod(shape) <= shape[-1]:
            raise ShapeError(
                f"training needs more than one value per channel, got x {tuple(shape)}: "
                "use a larger batch, or training=False"
            )
        return self._replace(training=bool(self.training), momentum=momentum, eps=eps)

    def running_statistics(self) -> tuple[Array, Array]:
        """(mean, inv_std) of inference, in float64, for a batch of no rows."""
        return self.running_mean.astype("float64"), (self.running_var.astype("float64") + self.eps) ** -0.5


def check_vectors(channels: int, **vectors: Array) -> None:
    """Raise ShapeError unless each vector has one entry per channel."""
    for name, vector in vectors.items():
        check_shape(name, vector, (channels,))


def check_gradient(
    dy: Array,
    y_shape: Sequence[int],
    x: Array,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    out: tuple[Array | None, Array | None],
) -> None:
    """Raise unless the arguments of the backward pass match; `mean` and `inv_std` were saved by the forward pass."""
    check_float(x=x, dy=dy, gamma=gamma)
    check_shape("dy", dy, y_shape)
    check_vectors(x.shape[-1], gamma=gamma, **{"saved.mean": mean, "saved.inv_std": inv_std})
    check_out(out, ("dgamma", gamma.shape, x.dtype), ("dbeta", gamma.shape, x.dtype))
