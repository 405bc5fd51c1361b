"""The building block of the CNN."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet.errors import ConfigError
from gpunet.nn.activation import make_activation
from gpunet.nn.conv import Conv2d
from gpunet.nn.init import Initializer
from gpunet.nn.layer import Layer
from gpunet.nn.norm import BatchNorm
from gpunet.nn.pool import AvgPool2d, MaxPool2d
from gpunet.nn.sequential import Sequential


class ConvBlock(Sequential):
    """Convolution ("same" padding), batch norm, activation and 2x2 pooling, all but the convolution optional.

    Where possible, :mod:`gpunet.nn.fusion` computes several of them as one op.

    Args:
        in_channels: channels of the input map.
        filters: channels of the output map.
        kernel_size: that of the convolution, an int or (vertical, horizontal).
        batch_norm: whether to add batch norm; the convolution then has no bias (batch norm's beta serves as one).
        activation: a name in :data:`gpunet.nn.ACTIVATIONS`, or None.
        pool: ``"max"``, ``"average"`` or None.
        init: initialiser of the convolution's weight; He by default.

    >>> block = gn.nn.ConvBlock(1, 8)
    >>> list(block.layers)
    ['conv', 'norm', 'activation', 'pool']
    >>> block.output_shape((28, 28, 1))
    (14, 14, 8)
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        batch_norm: bool = True,
        activation: str | None = "relu",
        pool: str | None = "max",
        init: Initializer | None = None,
    ) -> None:
        conv = Conv2d(in_channels, filters, kernel_size, padding="same", bias=not batch_norm, init=init)
        layers: list[tuple[str, Layer]] = [("conv", conv)]
        if batch_norm:
            layers.append(("norm", BatchNorm(filters)))
        if activation is not None:
            layers.append(("activation", make_activation(activation)))
        if pool is not None:
            if pool not in ("max", "average"):
                raise ConfigError(f"pool must be max, average or None, got {pool!r}")
            layers.append(("pool", MaxPool2d(2) if pool == "max" else AvgPool2d(2)))
        super().__init__(layers)
