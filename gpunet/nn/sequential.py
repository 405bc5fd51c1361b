"""A sequence of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gpunet.backend import Array
from gpunet.errors import ConfigError, DTypeError
from gpunet.nn import fusion
from gpunet.nn.layer import Backward, ForwardContext, Layer, Shape


class Sequential(Layer):
    """Named layers applied in order, given as a list of layers or of (name, layer) pairs.

    Fusion of layers is planned once, at construction (:mod:`gpunet.nn.fusion`).

    Backward stops early and returns None if nothing further down needs a gradient: ``ForwardContext.needs_input_grad``
    is passed on up to the first layer with parameters; all later ones must return their input gradient.

    >>> layers = [("hidden", gn.nn.Linear(2, 3)), ("relu", gn.nn.ReLU()), ("out", gn.nn.Linear(3, 1))]
    >>> model = gn.nn.Sequential(layers).initialize(seed=0)
    >>> model(np.zeros((5, 2), np.float32)).shape
    (5, 1)
    >>> [name for name, _ in model.named_parameters()]
    ['hidden.weight', 'hidden.bias', 'out.weight', 'out.bias']
    """

    def __init__(self, layers: Sequence[Layer | tuple[str, Layer]]) -> None:
        self._layers: dict[str, Layer] = {}
        for index, item in enumerate(layers):
            name, layer = item if isinstance(item, tuple) else (str(index), item)
            if name in self._layers:
                raise ConfigError(f"two layers are called {name!r}")
            self._layers[name] = layer
        self._steps = fusion.plan(list(self._layers.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_steps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_steps": fusion.plan(list(state["_layers"].values()))})

    @property
    def layers(self) -> Mapping[str, Layer]:
        """By name, in order; read-only, since the plan would not follow a change."""
        return MappingProxyType(self._layers)

    def children(self) -> Iterator[tuple[str, Layer]]:
        return iter(self.layers.items())

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        tape: list[Backward] = []
        for step in self._steps:
            y, step_backward = step.forward(x, ctx)
            if tape and y.dtype != x.dtype:  # only the first layer may convert what it is given
                raise DTypeError(_converts(step, "forward", y, x, "output", "an input"))
            x = y
            tape.append(step_backward)
            if not ctx.needs_input_grad and step.has_parameters():
                ctx = ctx.for_inner_layer()

        def backward(dy: Array) -> Array | None:
            for step, step_backward in zip(reversed(self._steps), reversed(tape), strict=True):
                below: Array | None = step_backward(dy)
                if below is None:
                    return None
                if below.dtype != dy.dtype and step is not self._steps[0]:
                    raise DTypeError(_converts(step, "backward", below, dy, "gradient", "a gradient"))
                dy = below
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


def _converts(step: fusion.Step, where: str, found: Array, given: Array, what: str, of: str) -> str:
    return (
        f"the {where} of {type(step).__name__} returned a {found.dtype} {what} for {of} of {given.dtype}: return "
        f"result.astype({given.dtype}) there; numbers such as numpy.float64 and arrays made without a dtype convert it"
    )
