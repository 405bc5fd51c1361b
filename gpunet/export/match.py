"""Which of gpunet's models a list of layers is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpunet.errors import CheckpointError, ConfigError, ShapeError
from gpunet.export.leaves import Leaf, leaves
from gpunet.export.reader import Found
from gpunet.models import CNNConfig, HybridConfig, MLPConfig, create
from gpunet.models.registry import MODELS
from gpunet.nn import (
    ACTIVATIONS,
    GELU,
    Activation,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Sequential,
    make_activation,
)
from gpunet.nn.layer import Shape
from gpunet.ops.geometry import Conv2dGeometry, Pool2dGeometry
from gpunet.options import Options, option_fields

_NAMES = {Conv2d: "a convolution", Linear: "a linear layer", BatchNorm: "batch normalisation"}


def match(
    found: list[Found], input_shape: Shape, classes: int, stored: dict[str, Any] | None
) -> tuple[Sequential, dict[str, np.ndarray]]:
    """The model that `found` are the layers of, without arrays, and the values of its parameters and buffers.

    Args:
        stored: the options in the file's metadata, if there are any; otherwise they follow from the layers.

    Raises:
        CheckpointError: they are not the layers of any of gpunet's models.
    """
    reason = ""
    for config in _configs(found, stored):
        try:
            model = create(config, input_shape, classes)
            return model, _values(leaves(model, input_shape), found)
        except (ConfigError, ShapeError, CheckpointError) as error:
            reason = reason or str(error)
    raise CheckpointError(f"the graph is none of gpunet's models ({', '.join(MODELS)}): {reason}")


def _configs(found: list[Found], stored: dict[str, Any] | None) -> Iterator[Options]:
    """Options of models that may have these layers."""
    if stored is not None:
        yield _stored(stored, len(found))
        return
    layers = [one.layer for one in found]
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, Linear)), len(layers))
    hidden, activation = _stack(layers[first:])
    body = [layer for layer in layers[:first] if not isinstance(layer, Flatten)]
    if not body:
        yield MLPConfig(hidden=hidden, activation=activation or "relu")
        return
    for cnn in _bodies(body):
        same = activation in (None, cnn["activation"])
        if same:
            yield CNNConfig(**cnn, head=hidden, dropout=0.0)
        yield HybridConfig(
            **cnn,
            dropout=0.0,
            classifier_hidden=hidden,
            classifier_activation=activation or cnn["activation"],
            classifier_dropout=0.0,
        )


def _stored(stored: dict[str, Any], layers: int) -> Options:
    kind = stored.get("kind")
    if kind not in MODELS:
        raise CheckpointError(f"the file's metadata name the model {kind!r:.80}, expected one of {', '.join(MODELS)}")
    owner = MODELS[kind].config
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items() if name != "kind"}
    unknown = [name for name in values if name not in option_fields(owner)]
    if unknown:
        raise CheckpointError(f"the file's metadata have options that {kind} has not: {', '.join(unknown)[:80]}")
    if any(isinstance(value, tuple) and len(value) > layers for value in values.values()):
        raise CheckpointError("the file's metadata name more layers than its graph has")
    return owner(**values)


def _stack(layers: list[Layer]) -> tuple[tuple[int, ...], str | None]:
    """Sizes of the hidden linear layers, and the name of the first activation between them."""
    sizes = [layer.weight.shape[1] for layer in layers if isinstance(layer, Linear)]
    names = [name for layer in layers if (name := _activation(layer)) is not None]
    return tuple(sizes[:-1]), names[0] if names else None


def _activation(layer: Layer) -> str | None:
    return next((name for name in ACTIVATIONS if _same_activation(make_activation(name), layer)), None)


def _bodies(layers: list[Layer]) -> Iterator[dict[str, Any]]:
    """Options of a CNN that may have these layers before its linear ones: with the default pooling, then any."""
    blocks: list[list[Layer]] = []
    for layer in layers:
        if isinstance(layer, Conv2d):
            blocks.append([])
        if blocks:
            blocks[-1].append(layer)
    convolutions = [block[0] for block in blocks if isinstance(block[0], Conv2d)]
    if not convolutions:
        raise CheckpointError("the layers before the linear ones have no convolution")
    kernels = tuple(layer.weight.shape[0] for layer in convolutions)
    pooled = [number for number, block in enumerate(blocks, 1) if any(map(_pools, block))]
    average = any(isinstance(layer, AvgPool2d) for layer in layers)
    mean = any(isinstance(layer, GlobalAvgPool2d) for layer in layers)
    pooling = "global_average" if mean else "average" if average else "max" if pooled else "none"
    names = [name for layer in layers if (name := _activation(layer)) is not None]
    common = {
        "filters": tuple(layer.weight.shape[3] for layer in convolutions),
        "kernel_sizes": kernels[:1] if len(set(kernels)) == 1 else kernels,
        "pooling": pooling,
        "activation": names[0] if names else "relu",
        "batch_norm": any(isinstance(layer, BatchNorm) for layer in layers),
    }
    yield {**common, "pool_after": ()}
    if pooled:
        yield {**common, "pool_after": tuple(pooled)}


def _pools(layer: Layer) -> bool:
    return isinstance(layer, (MaxPool2d, AvgPool2d))


def _values(own: list[Leaf], found: list[Found]) -> dict[str, np.ndarray]:
    """The values of the model's parameters and buffers, by name; CheckpointError if a layer is another one."""
    needed = [leaf for leaf in own if not isinstance(leaf.layer, Dropout) and not _idle(leaf)]
    given = [one for one in found if not isinstance(one.layer, Flatten)]
    values: dict[str, np.ndarray] = {}
    for leaf, one in zip(needed, given, strict=False):
        if not _same(leaf, one.layer):
            name = one.node.name or one.node.output[0]
            raise CheckpointError(f"the node {name!r:.80} ({one.node.op_type}) is not the model's {leaf.name}")
        values.update({f"{leaf.name}.{part}": np.ascontiguousarray(array) for part, array in one.values.items()})
    if len(needed) != len(given):
        raise CheckpointError(f"the graph has {len(given)} layers, the model {len(needed)}")
    return values


def _idle(leaf: Leaf) -> bool:
    """Whether it only changes the shape, which the other layers tell as well."""
    return isinstance(leaf.layer, Flatten)


def _same(leaf: Leaf, other: Layer) -> bool:
    """Whether `other` computes the same function of its values as the model's layer."""
    layer, shape = leaf.layer, (1, *leaf.input_shape)
    if isinstance(layer, Activation):
        return _same_activation(layer, other)
    if type(layer) is not type(other):
        return False
    try:
        if isinstance(layer, (Conv2d, Linear)):
            assert isinstance(other, (Conv2d, Linear))
            same = layer.weight.shape == other.weight.shape and (layer.bias is None) == (other.bias is None)
            return same and (not isinstance(layer, Conv2d) or _geometry(layer, shape) == _geometry(other, shape))
        if isinstance(layer, (MaxPool2d, AvgPool2d)):
            return _pooling(layer, shape) == _pooling(other, shape)
        if isinstance(layer, BatchNorm):
            assert isinstance(other, BatchNorm)
            return layer.gamma.shape == other.gamma.shape and np.float32(layer.eps) == np.float32(other.eps)
    except (ConfigError, ShapeError):
        return False
    return True


def _same_activation(layer: Layer, other: Layer) -> bool:
    if type(layer) is not type(other):
        return False
    if isinstance(layer, LeakyReLU) and isinstance(other, LeakyReLU):
        return bool(np.float32(layer.slope) == np.float32(other.slope))  # as the file holds it
    return not (isinstance(layer, GELU) and isinstance(other, GELU)) or layer.approximate == other.approximate


def _geometry(layer: Any, shape: Shape) -> Conv2dGeometry:
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    return Conv2dGeometry.of(shape, layer.weight.shape, **options)


def _pooling(layer: Any, shape: Shape) -> tuple[Any, ...]:
    dilation = getattr(layer, "dilation", 1)
    g = Pool2dGeometry.of(
        shape,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=dilation,
        ceil_mode=layer.ceil_mode,
    )
    counted = any(g.padding) and getattr(layer, "count_include_pad", True)
    return g.kernel, g.stride, g.padding, g.dilation, g.out_height, g.out_width, counted
