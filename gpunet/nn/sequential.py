"""Layers in a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpunet.backend import Array
from gpunet.errors import ConfigError
from gpunet.nn.activation import ReLU
from gpunet.nn.layer import Backward, ForwardContext, Layer, Shape
from gpunet.nn.linear import Linear


class Sequential(Layer):
    """Layers in a row, each with a name: a list of layers, or of (name, layer) pairs.

    Backward stops, and returns None, where no gradient is needed further down: ``ForwardContext.needs_input_grad`` is
    handed to the first layer that has parameters, all later ones have to return theirs.

    A linear layer and the ReLU behind it are one op.
    """

    def __init__(self, layers: Sequence[Layer | tuple[str, Layer]]) -> None:
        self.layers: dict[str, Layer] = {}
        for index, item in enumerate(layers):
            name, layer = item if isinstance(item, tuple) else (str(index), item)
            if name in self.layers:
                raise ConfigError(f"two layers are called {name!r}")
            self.layers[name] = layer

    def children(self) -> Iterator[tuple[str, Layer]]:
        return iter(self.layers.items())

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        tape: list[Backward] = []
        layers = list(self.layers.values())
        pairs = zip(layers, [*layers[1:], None], strict=False)
        for layer, following in pairs:
            if type(layer) is Linear and type(following) is ReLU:  # a subclass may compute something else
                x, layer_backward = layer.forward(x, ctx, relu=True)
                next(pairs)
            else:
                x, layer_backward = layer.forward(x, ctx)
            tape.append(layer_backward)
            if not ctx.needs_input_grad and layer.has_parameters():
                ctx = ctx.for_inner_layer()

        def backward(dy: Array) -> Array | None:
            for layer_backward in reversed(tape):
                dy = layer_backward(dy)
                if dy is None:
                    break
            return dy

        return x, backward

    def output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers.values():
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def flops(self, input_shape: Shape) -> int:
        total = 0
        for layer in self.layers.values():
            total += layer.flops(input_shape)
            input_shape = layer.output_shape(input_shape)
        return total
