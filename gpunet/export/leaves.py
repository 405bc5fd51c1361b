"""A model as the sequence of its layers, with the shapes between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gpunet.backend import Array
from gpunet.errors import ConfigError
from gpunet.nn import Layer, Sequential
from gpunet.nn.layer import Shape
from gpunet.nn.parameter import Buffer, Parameter


@dataclass(frozen=True)
class Leaf:
    """A layer without children, and where it stands."""

    name: str
    """Dotted, as in the model's state."""
    layer: Layer
    input_shape: Shape
    output_shape: Shape

    def host(self, part: str) -> np.ndarray | None:
        """The values of its parameter or buffer `part`, on the host; None if it has none."""
        held: Parameter | Buffer | None = getattr(self.layer, part, None)
        return None if held is None else np.ascontiguousarray(_numpy(held.value))

    def refused(self, form: str) -> ConfigError:
        """The error that it cannot be written as `form`."""
        return ConfigError(
            f"the layer {self.name or 'of the model'} ({type(self.layer).__name__}) has no {form} form: export a model "
            "of gpunet's own layers, or leave it out"
        )


def leaves(model: Layer, input_shape: Shape) -> list[Leaf]:
    """The layers of `model`, in order, for inputs of `input_shape`.

    A Sequential that computes anything else than its layers in order is a layer by itself.

    Raises:
        ShapeError: the layers do not fit each other, or the inputs.
    """
    found, shape = [], tuple(input_shape)
    for name, layer in _in_order("", model):
        after = tuple(layer.output_shape(shape))
        found.append(Leaf(name, layer, shape, after))
        shape = after
    return found


def _in_order(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    if isinstance(layer, Sequential) and type(layer).forward is Sequential.forward:
        for inner, child in layer.layers.items():
            yield from _in_order(f"{name}.{inner}" if name else inner, child)
    else:
        yield name, layer


def chw_order(shape: Shape) -> np.ndarray | None:
    """Indices of the values of a map (H, W, C), flattened, in the order in which (C, H, W) has them.

    None if both have the same order: for vectors, maps of one pixel and maps of one channel.
    """
    if len(shape) != 3 or shape[2] == 1 or shape[0] * shape[1] == 1:
        return None
    height, width, channels = shape
    return np.arange(height * width * channels).reshape(shape).transpose(2, 0, 1).ravel()


def _numpy(value: Array) -> np.ndarray:
    from gpunet.backend import backend_of

    return backend_of(value).to_numpy(value)
