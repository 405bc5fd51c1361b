"""From a model's layers to the nodes of an ONNX graph (opset 18)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpunet.errors import ConfigError
from gpunet.export.leaves import Leaf, chw_order
from gpunet.export.packages import onnx_packages
from gpunet.export.source import Source
from gpunet.nn import (
    GELU,
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
    ReLU,
    Tanh,
)
from gpunet.nn.layer import Shape
from gpunet.ops.geometry import Conv2dGeometry, Pool2dGeometry

OPSET, IR_VERSION = 18, 8


class GraphBuilder:
    """Nodes in order, and the value that the next one reads: a map or a vector, and how it is laid out."""

    def __init__(self, shape: Shape, layout: str, dtype: str) -> None:
        _, self.ir = onnx_packages()
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.shape = shape
        """(H, W, C) or (F,), whatever the layout."""
        self.channels_first = layout == "NCHW" and len(shape) == 3
        sides = (shape[2], *shape[:2]) if self.channels_first else shape
        kind = self.ir.DataType.UINT8 if dtype == "uint8" else self.ir.DataType.FLOAT
        self.input = self.ir.val("input", kind, ["batch", *sides])
        self.value = self.input

    def constant(self, name: str, array: np.ndarray) -> Any:
        """`array` as an initializer of the graph, float32 or int64; the same again if the name is known."""
        if name not in self.constants:
            tensor = self.ir.tensor(np.ascontiguousarray(array), name=name)
            self.constants[name] = self.ir.Value(
                name=name, shape=tensor.shape, type=self.ir.TensorType(tensor.dtype), const_value=tensor
            )
        return self.constants[name]

    def number(self, value: float) -> Any:
        """A float32 scalar."""
        return self.constant(f"number_{value:.9g}", np.asarray(value, np.float32))

    def node(self, op: str, inputs: list[Any], name: str, **attributes: Any) -> Any:
        """Adds a node; returns its output. It is not yet the value that the next layer reads."""
        node = self.ir.node(op, inputs, attributes, name=name)
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def apply(self, op: str, name: str, *constants: Any, **attributes: Any) -> None:
        """Adds a node of the current value, which its output becomes."""
        self.value = self.node(op, [self.value, *constants], name, **attributes)

    def lay_out(self, name: str, *, channels_first: bool) -> None:
        """Turn the current map, if it is laid out in the other way."""
        if len(self.shape) == 3 and self.channels_first != channels_first:
            self.apply("Transpose", f"{name}.layout", perm=(0, 3, 1, 2) if channels_first else (0, 2, 3, 1))
        self.channels_first = channels_first


def _convolution(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    layer = leaf.layer
    assert isinstance(layer, Conv2d)
    g = Conv2dGeometry.of(
        (1, *leaf.input_shape),
        layer.weight.shape,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )
    weight, bias = _weight_and_bias(leaf, norm)
    b.lay_out(leaf.name, channels_first=True)
    top, bottom, left, right = g.padding
    b.apply(
        "Conv",
        leaf.name,
        b.constant(f"{leaf.name}.weight", weight.transpose(3, 2, 0, 1)),
        *_optional(b, f"{leaf.name}.bias", bias),
        kernel_shape=g.kernel,
        strides=g.stride,
        pads=(top, left, bottom, right),
        dilations=g.dilation,
        group=g.groups,
    )


def _linear(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    weight, bias = _weight_and_bias(leaf, norm)
    b.apply("Gemm", leaf.name, b.constant(f"{leaf.name}.weight", weight), *_optional(b, f"{leaf.name}.bias", bias))


def _optional(b: GraphBuilder, name: str, array: np.ndarray | None) -> list[Any]:
    return [] if array is None else [b.constant(name, array)]


def _weight_and_bias(leaf: Leaf, norm: Leaf | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Those of the layer, float32; with the batch normalisation after it folded in, if there is one."""
    weight, bias = leaf.host("weight"), leaf.host("bias")
    assert weight is not None
    if norm is None:
        return weight.astype(np.float32), None if bias is None else bias.astype(np.float32)
    gamma, beta, mean, variance = (
        np.asarray(norm.host(part), np.float64) for part in ("gamma", "beta", "running_mean", "running_var")
    )
    assert isinstance(norm.layer, BatchNorm)
    scale = gamma / np.sqrt(variance + norm.layer.eps)
    shifted = beta + ((0.0 if bias is None else bias.astype(np.float64)) - mean) * scale
    return (weight.astype(np.float64) * scale).astype(np.float32), shifted.astype(np.float32)


def _batch_norm(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    assert isinstance(leaf.layer, BatchNorm)
    b.lay_out(leaf.name, channels_first=True)
    parts = ("gamma", "beta", "running_mean", "running_var")
    values = [b.constant(f"{leaf.name}.{part}", np.asarray(leaf.host(part), np.float32)) for part in parts]
    b.apply("BatchNormalization", leaf.name, *values, epsilon=leaf.layer.eps)


def _max_pool(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    layer = leaf.layer
    assert isinstance(layer, MaxPool2d)
    g = Pool2dGeometry.of(
        (1, *leaf.input_shape),
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        ceil_mode=layer.ceil_mode,
    )
    b.lay_out(leaf.name, channels_first=True)
    b.apply("MaxPool", leaf.name, kernel_shape=g.kernel, strides=g.stride, pads=_all_pads(g), dilations=g.dilation)


def _average_pool(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    layer = leaf.layer
    assert isinstance(layer, AvgPool2d)
    g = Pool2dGeometry.of(
        (1, *leaf.input_shape),
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        ceil_mode=layer.ceil_mode,
    )
    b.lay_out(leaf.name, channels_first=True)
    top, bottom, left, right = g.padding
    own, pads = (top, left, bottom, right), _all_pads(g)
    counted = layer.count_include_pad
    if counted and pads != own:  # what lies beyond the padding does not count: the padding becomes a part of the map
        if any(own):
            sides = b.constant(f"{leaf.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
            b.apply("Pad", f"{leaf.name}.pad", sides)
        pads, counted = tuple(all_ - one for all_, one in zip(pads, own, strict=True)), False
    b.apply(
        "AveragePool", leaf.name, kernel_shape=g.kernel, strides=g.stride, pads=pads, count_include_pad=int(counted)
    )


def _all_pads(g: Pool2dGeometry) -> tuple[int, ...]:
    """(top, left, bottom, right) with which a window that `ceil_mode` lets reach beyond the padding lies inside.

    Runtimes differ in how they round up.
    """
    ends = []
    for axis, size in enumerate((g.height, g.width)):
        before, after = g.padding[2 * axis], g.padding[2 * axis + 1]
        length = (g.out_height, g.out_width)[axis]
        reach = (length - 1) * g.stride[axis] + g.dilation[axis] * (g.kernel[axis] - 1) + 1
        ends.append(max(after, reach - size - before))
    return g.padding[0], g.padding[2], ends[0], ends[1]


def _global_average(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    b.lay_out(leaf.name, channels_first=True)
    b.apply("GlobalAveragePool", f"{leaf.name}.mean")
    b.apply("Flatten", leaf.name, axis=1)


def _flatten(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    if len(leaf.input_shape) == 1:
        return
    if chw_order(leaf.input_shape) is not None:
        b.lay_out(leaf.name, channels_first=False)
    b.apply("Flatten", leaf.name, axis=1)


def _relu(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    b.apply("Relu", leaf.name)


def _leaky_relu(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    assert isinstance(leaf.layer, LeakyReLU)
    b.apply("LeakyRelu", leaf.name, alpha=leaf.layer.slope)


def _tanh(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    b.apply("Tanh", leaf.name)


def _gelu(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    """Opset 18 has no Gelu: x * (1 + erf(x / sqrt(2))) * 0.5, or its tanh approximation."""
    assert isinstance(leaf.layer, GELU)
    x, name = b.value, leaf.name
    if leaf.layer.approximate == "tanh":
        cube = b.node("Mul", [b.node("Mul", [x, x], f"{name}.square"), x], f"{name}.cube")
        inner = b.node("Add", [x, b.node("Mul", [cube, b.number(0.044715)], f"{name}.part")], f"{name}.inner")
        scaled = b.node("Mul", [inner, b.number(math.sqrt(2.0 / math.pi))], f"{name}.scaled")
        function = b.node("Tanh", [scaled], f"{name}.tanh")
    else:
        function = b.node("Erf", [b.node("Div", [x, b.number(math.sqrt(2.0))], f"{name}.scaled")], f"{name}.erf")
    share = b.node("Add", [function, b.number(1.0)], f"{name}.share")
    b.value = b.node("Mul", [b.node("Mul", [x, share], f"{name}.double"), b.number(0.5)], name)


def _dropout(b: GraphBuilder, leaf: Leaf, norm: Leaf | None) -> None:
    """Nothing: it is inactive in inference."""


FORMS: dict[type[Layer], Callable[[GraphBuilder, Leaf, Leaf | None], None]] = {
    Conv2d: _convolution,
    Linear: _linear,
    BatchNorm: _batch_norm,
    MaxPool2d: _max_pool,
    AvgPool2d: _average_pool,
    GlobalAvgPool2d: _global_average,
    Flatten: _flatten,
    ReLU: _relu,
    LeakyReLU: _leaky_relu,
    Tanh: _tanh,
    GELU: _gelu,
    Dropout: _dropout,
}
"""What writes each type of layer; exact types, as a subclass may compute something else."""


def build_graph(source: Source, found: list[Leaf], kind: str, layout: str, *, fold: bool) -> Any:
    """The ONNX graph, an ``onnx_ir.Graph``, of the layers `found`.

    Raises:
        ConfigError: a layer has no ONNX form, or a value is not finite.
    """
    for leaf in found:
        if type(leaf.layer) not in FORMS:
            raise leaf.refused("ONNX")
    b = GraphBuilder(source.graph_shape, layout, kind)
    if kind == "uint8":
        b.apply("Cast", "input.float", to=b.ir.DataType.FLOAT)
    if kind != "scaled":
        _scale(b, source)
    skipped = False
    for position, leaf in enumerate(found):
        if skipped:
            skipped = False
            continue
        after = found[position + 1] if position + 1 < len(found) else None
        folds = type(leaf.layer) in (Conv2d, Linear) and after is not None and type(after.layer) is BatchNorm
        skipped = fold and folds
        FORMS[type(leaf.layer)](b, leaf, after if skipped else None)
        b.shape = leaf.output_shape
    for name, value in b.constants.items():
        if not np.isfinite(value.const_value.numpy()).all():
            raise ConfigError(f"{name} has values that are NaN, or infinite in float32: train again, or do not export")
    if b.value is b.input:
        raise ConfigError("the model has no layers that compute anything")
    b.value.name = "logits"
    probabilities = b.node("Softmax", [b.value], "probabilities", axis=1)
    for value in (b.value, probabilities):
        value.shape, value.type = b.ir.Shape(["batch", len(source.class_names)]), b.ir.TensorType(b.ir.DataType.FLOAT)
    return b.ir.Graph(
        [b.input],
        [b.value, probabilities],
        nodes=b.nodes,
        initializers=list(b.constants.values()),
        opset_imports={"": OPSET},
        name="gpunet",
    )


def _scale(b: GraphBuilder, source: Source) -> None:
    """input * scale + offset."""
    assert source.scaling is not None
    for op, name, array in (("Mul", "scale", source.scaling.scale), ("Add", "offset", source.scaling.offset)):
        laid_out = array.transpose(2, 0, 1) if b.channels_first else array
        b.apply(
            op,
            f"input.{name}",
            b.constant(f"input.{name}.value", laid_out.reshape(-1) if source.of_table else laid_out),
        )
