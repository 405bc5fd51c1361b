"""The network's building block."""

from __future__ import annotations

from collections.abc import Sequence

from gpunet import ops
from gpunet.backend import Array
from gpunet.errors import ConfigError
from gpunet.nn.activation import LeakyReLU, ReLU, Tanh
from gpunet.nn.activation import activation as make_activation
from gpunet.nn.conv import Conv2d
from gpunet.nn.init import Initializer
from gpunet.nn.layer import Backward, ForwardContext, Layer
from gpunet.nn.norm import BatchNorm
from gpunet.nn.pool import AvgPool2d, MaxPool2d
from gpunet.nn.sequential import Sequential


def _never_decreases(activation: Layer | None) -> bool:
    if isinstance(activation, LeakyReLU):
        return activation.slope >= 0
    return activation is None or isinstance(activation, (ReLU, Tanh))


class ConvBlock(Sequential):
    """Convolution ("same" padding), batch norm, activation and 2x2 pooling, each after the first optional.

    The maximum of an activation that never decreases is the activation of the maximum. So where such a one (or none)
    stands between batch norm and max pooling, these two are one op, :func:`gpunet.ops.batch_norm_max_pool`, and
    the activation comes last, on a quarter of the elements. If it rounds two inputs of a window to one output, the
    gradient goes to the larger input, not to the first.

    Args:
        in_channels: channels of the input map.
        filters: channels of the output map.
        kernel_size: of the convolution, an int or (vertical, horizontal).
        batch_norm: with it, the convolution has no bias of its own (batch norm's beta is one).
        activation: a name that :func:`gpunet.nn.activation.activation` knows, or None.
        pool: ``"max"``, ``"average"`` or None.
        init: of the convolution's weight; He by default.
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

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        norm, activation, pool = (self.layers.get(name) for name in ("norm", "activation", "pool"))
        if not (isinstance(norm, BatchNorm) and isinstance(pool, MaxPool2d) and _never_decreases(activation)):
            return super().forward(x, ctx)
        maps, conv_backward = self.layers["conv"].forward(x, ctx)
        pooled, saved = ops.batch_norm_max_pool(
            maps,
            norm.gamma.value,
            norm.beta.value,
            norm.running_mean.value,
            norm.running_var.value,
            training=ctx.training,
            momentum=norm.momentum,
            eps=norm.eps,
        )
        last = Sequential([] if activation is None else [activation])
        y, last_backward = last.forward(pooled, ctx.for_inner_layer())

        def backward(dy: Array) -> Array | None:
            dpooled, out = last_backward(dy), (norm.gamma.grad, norm.beta.grad)
            dmaps, _, _ = ops.batch_norm_max_pool_backward(dpooled, maps, norm.gamma.value, saved, out=out)
            dx: Array | None = conv_backward(dmaps)
            return dx

        return y, backward
