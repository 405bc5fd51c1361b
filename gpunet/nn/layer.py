"""The layer interface: forward returns the output and the backward function."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from gpunet.backend import Array, Backend, Gather
from gpunet.devices import backend_named, get_backend
from gpunet.errors import ConfigError, DTypeError
from gpunet.nn.parameter import Buffer, FlatParameters, Parameter
from gpunet.ops import random

Backward = Callable[[Array], Any]
"""Maps the gradient of the output to that of the input; overwrites ``Parameter.grad`` rather than accumulating."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ForwardContext:
    """How a forward pass runs. ``ForwardContext()`` is inference.

    >>> norm = gn.nn.BatchNorm(1).initialize()
    >>> x = np.float32([[0], [2]])
    >>> y, backward = norm.forward(x, gn.nn.ForwardContext(training=True))
    >>> y.round(3).ravel()  # in inference, the same layer would use its running statistics
    array([-1.,  1.], dtype=float32)
    """

    training: bool = False
    """Batch norm uses batch statistics and updates the running ones; dropout is active."""
    seed: int = 0
    step: int | Array = 0
    """Number of the training step, an int or a one-element array on the device; it keys the random numbers."""
    needs_input_grad: bool = True
    """Whether backward must return the gradient of the input; if not, it may return None."""
    first_row: int = 0
    """Number of the first row in the batch that these rows are a part of; dropout keys its masks by it."""
    gather: Gather | None = None
    """If these rows are one of several equal parts whose batch norm is synchronised: where they meet."""

    def for_inner_layer(self) -> ForwardContext:
        """This context for a layer whose input depends on parameters and so needs its input gradient."""
        if self.needs_input_grad:
            return self
        # Not dataclasses.replace, which takes some microseconds.
        return ForwardContext(self.training, self.seed, self.step, True, self.first_row, self.gather)

    def needs(self, *, bias: bool) -> tuple[str, ...]:
        """The gradients that a layer with a weight, and optionally a `bias`, must compute: `needs` of the ops."""
        found = ("weight", "bias") if bias else ("weight",)
        return ("x", *found) if self.needs_input_grad else found


def _layers_in(name: str, value: Any) -> Iterator[tuple[str, Layer]]:
    if isinstance(value, Layer):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _layers_in(f"{name}.{index}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _layers_in(f"{name}.{key}", item)


class Layer:
    """Base class of all layers. Arrays are ``(N, ...)``, images ``(N, H, W, C)``; shapes below omit N.

    A layer holds :class:`Parameter` and :class:`Buffer` attributes, or child layers. What a forward pass saves is held
    by the backward closure that it returns, never by the layer.

    >>> layer = gn.nn.Linear(3, 2, init=gn.nn.Constant(1.0)).initialize(seed=0)
    >>> layer(np.float32([[1, 2, 3]]))
    array([[6., 6.]], dtype=float32)
    >>> [(name, parameter.shape) for name, parameter in layer.named_parameters()]
    [('weight', (3, 2)), ('bias', (2,))]
    """

    flat: FlatParameters | None = None
    """The flat buffers that hold the values; set by :meth:`initialize` on the layer it is called on."""
    description: Any = None
    """For a model, how to build it again: a :class:`gpunet.models.Description`."""
    target_scaling: Any = None
    """For a model trained for a regression, the :class:`gpunet.data.targets.TargetScaling` from its outputs, which are
    standardised, to the units of the targets."""
    elementwise: ClassVar[bool] = False
    """Whether the layer is element-wise, so that output and input shapes are the same."""

    def forward(self, x: Array, ctx: ForwardContext) -> tuple[Array, Backward]:
        """The output for `x`, and the backward function of this pass."""
        raise NotImplementedError

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the output for an input of `input_shape`; raises ShapeError if that does not fit."""
        if self.elementwise:
            return input_shape
        raise NotImplementedError

    def flops(self, input_shape: Shape) -> int:
        """Floating-point operations of one forward pass for one input; a fused multiply-add counts as two."""
        return math.prod(input_shape)

    def __call__(self, x: Array) -> Array:
        """The output in inference mode."""
        return self.forward(x, ForwardContext())[0]

    def children(self) -> Iterator[tuple[str, Layer]]:
        """The direct child layers, by name: attributes that are layers, or lists, tuples or dictionaries of layers.

        They are in the order in which they were assigned. The layers of a list are called ``name.0``, ``name.1`` and so
        on, those of a dictionary by its keys. A layer may have a method of its own instead.
        """
        for name, value in vars(self).items():
            yield from _layers_in(name, value)

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer (named `prefix`) and all its descendants, depth first, with dotted names."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_layers(f"{prefix}.{name}" if prefix else name)

    def _named_attributes(self, kind: type) -> list[tuple[str, Any]]:
        found: dict[int, tuple[str, Any]] = {}
        for layer_name, layer in self.named_layers():
            for name, value in vars(layer).items():
                if isinstance(value, kind) and id(value) not in found:
                    found[id(value)] = f"{layer_name}.{name}" if layer_name else name, value
        return list(found.values())

    def has_parameters(self) -> bool:
        """Whether this layer or any descendant has parameters."""
        own = any(isinstance(value, Parameter) for value in vars(self).values())
        return own or any(child.has_parameters() for _, child in self.children())

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """All parameters with dotted names, in layer order."""
        return self._named_attributes(Parameter)

    def named_buffers(self) -> list[tuple[str, Buffer]]:
        """All buffers with dotted names, in layer order."""
        return self._named_attributes(Buffer)

    @property
    def parameter_count(self) -> int:
        return sum(parameter.size for _, parameter in self.named_parameters())

    def initialize(self, seed: int = 0, *, device: str | Backend | None = None, dtype: Any = np.float32) -> Self:
        """Allocate all parameters in one flat buffer on `device`, and initialise those without a value; returns self.

        The values depend only on `seed` and on the index and shape of the parameter, so they are the same on every
        device. Existing values, from an earlier `initialize` of a part or from training, are kept. A model that has its
        arrays on `device` already keeps them, so that an optimiser that is bound to them remains so.

        Raises:
            ConfigError: two parameters have the same name.
            DTypeError: `dtype` is not float32 or float64.
        """
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise DTypeError(f"a model's dtype must be float32 or float64, got {np.dtype(dtype)}")
        parameters, buffers = self.named_parameters(), self.named_buffers()
        names = [name for name, _ in [*parameters, *buffers]]
        if len(set(names)) != len(names):
            raise ConfigError(f"two parts of the model share a name: {sorted(names)}")
        backend = get_backend(device)
        flat = self.flat
        if (
            flat is not None
            and flat.current
            and (flat.backend, flat.dtype) == (backend, np.dtype(dtype))
            and (flat.parameters, flat.buffers) == (dict(parameters), dict(buffers))
        ):
            return self
        fresh = [(index, parameter) for index, (_, parameter) in enumerate(parameters) if parameter.value is None]
        self.flat = FlatParameters(parameters, buffers, backend=backend, dtype=np.dtype(dtype))
        for index, parameter in fresh:
            values = parameter.init(parameter.shape, random.PhiloxStream(seed, random.INIT, index))
            backend.assign(parameter.value, values)
        for index, (_, layer) in enumerate(self.named_layers()):
            layer.place(index)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A layer with copies of all values, in flat arrays of its own on the same device."""
        copied = memo[id(self)] = object.__new__(type(self))
        for name, value in vars(self).items():
            setattr(copied, name, None if name == "flat" else copy.deepcopy(value, memo))
        if self.flat is not None:
            copied.initialize(device=self.flat.backend, dtype=self.flat.dtype)
        return copied

    def __copy__(self) -> Any:
        """A layer with the same parameters and children, which are not copied."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "flat"}
        if self.flat is not None:
            state["_placed"] = (self.flat.backend.device, str(self.flat.dtype))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The layer with all values, in flat arrays of its own on the device that it was on, or else on the CPU."""
        placed = state.pop("_placed", None)
        vars(self).update(state)
        if placed is not None:
            self.initialize(device=backend_named(placed[0]), dtype=placed[1])

    def place(self, index: int) -> None:
        """Called once, at initialisation, with the index of this layer in the model (dropout keys its masks by it)."""
