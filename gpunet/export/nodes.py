"""What each kind of ONNX node is in gpunet: the layer, its values, and what is expected of the node's attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.export.elementwise import OPERATIONS, foreign
from gpunet.export.parse import attributes_of
from gpunet.nn import (
    GELU,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Tanh,
)

if TYPE_CHECKING:
    from gpunet.export.reader import Reader

TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def _conv(r: Reader, node: Any) -> None:
    r.need_map(node)
    weight = r.constant(node, 1, 4)
    kernel = weight.shape[2:]
    given = attributes_of(
        node, auto_pad="NOTSET", dilations=(1, 1), group=1, kernel_shape=kernel, pads=(0, 0, 0, 0), strides=(1, 1)
    )
    if given["kernel_shape"] != kernel or given["auto_pad"] not in ("NOTSET", "VALID"):
        raise foreign(node, "its kernel_shape is not that of its weight, or it has auto_pad")
    bias = len(node.input) > 2 and bool(node.input[2])
    layer = Conv2d(
        weight.shape[1] * given["group"],
        weight.shape[0],
        kernel,
        stride=given["strides"],
        padding=_sides(node, given["pads"]),
        dilation=given["dilations"],
        groups=given["group"],
        bias=bias,
    )
    values = {"weight": weight.transpose(2, 3, 1, 0)}
    if bias:
        values["bias"] = _vector(r, node, 2, weight.shape[0])
    r.add(node, layer, **values)


def _sides(node: Any, pads: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    if len(pads) != 4:
        raise foreign(node, f"pads must be four numbers, got {len(pads)}")
    top, left, bottom, right = pads
    return (top, bottom), (left, right)


def _vector(r: Reader, node: Any, position: int, size: int) -> np.ndarray:
    found = r.constant(node, position, 1)
    if found.shape != (size,):
        raise foreign(node, f"its input {position} must have {size} values, got {found.shape}")
    return found


def _gemm(r: Reader, node: Any) -> None:
    given = attributes_of(node, alpha=1.0, beta=1.0, transA=0, transB=0)
    weight = r.constant(node, 1, 2)
    if (given["alpha"], given["transA"]) != (1.0, 0) or given["transB"] not in (0, 1) or node.input[0] != r.value:
        raise foreign(node, "alpha must be 1, transA 0, and its first input the features")
    _linear(r, node, weight.T if given["transB"] else weight)
    if len(node.input) > 2 and node.input[2]:
        if given["beta"] != 1.0:
            raise foreign(node, "beta must be 1")
        _add_bias(r, node, 2)


def _matmul(r: Reader, node: Any) -> None:
    if node.input[0] != r.value:
        raise foreign(node, "its first input must be the features")
    _linear(r, node, r.constant(node, 1, 2))


def _linear(r: Reader, node: Any, weight: np.ndarray) -> None:
    layer = Linear(*weight.shape, bias=False)
    if len(r.shape) != 1:
        raise foreign(node, "it needs vectors (batch, features)")
    layer.output_shape(r.shape)
    weight, r.turned = r.in_order(weight), None
    r.add(node, layer, weight=weight)


def _add_bias(r: Reader, node: Any, position: int) -> None:
    last = r.found[-1]
    weight = last.values["weight"]
    bias = r.constant(node, position, 1, 2).reshape(-1)
    if bias.shape != weight.shape[1:]:
        raise foreign(node, f"a bias of {weight.shape[1]} values was expected, got {bias.shape}")
    r.found[-1] = replace(last, layer=Linear(*weight.shape), values={"weight": weight, "bias": bias})


def _batch_norm(r: Reader, node: Any) -> None:
    given = attributes_of(node, epsilon=1e-5, momentum=0.9, training_mode=0, spatial=1)
    if given["training_mode"] or given["spatial"] != 1 or len(node.output) != 1:
        raise foreign(node, "it must be in inference mode")
    features = r.shape[-1]
    if len(r.shape) == 3:
        r.need_map(node)
    names = ("gamma", "beta", "running_mean", "running_var")
    values = {name: _vector(r, node, position, features) for position, name in enumerate(names, start=1)}
    values = {name: r.in_order(array) for name, array in values.items()}
    r.add(node, BatchNorm(features, eps=given["epsilon"]), **values)


def _max_pool(r: Reader, node: Any) -> None:
    r.need_map(node)
    given = attributes_of(
        node, auto_pad="NOTSET", ceil_mode=0, dilations=(1, 1), kernel_shape=None, pads=(0, 0, 0, 0), storage_order=0,
        strides=(1, 1),
    )  # fmt: skip
    if given["auto_pad"] not in ("NOTSET", "VALID") or len(node.output) != 1:
        raise foreign(node, "auto_pad and indices are not read")
    r.add(
        node,
        MaxPool2d(
            given["kernel_shape"],
            stride=given["strides"],
            padding=_sides(node, given["pads"]),
            dilation=given["dilations"],
            ceil_mode=bool(given["ceil_mode"]),
        ),
    )


def _average_pool(r: Reader, node: Any) -> None:
    r.need_map(node)
    given = attributes_of(
        node, auto_pad="NOTSET", ceil_mode=0, count_include_pad=0, dilations=(1, 1), kernel_shape=None,
        pads=(0, 0, 0, 0), strides=(1, 1),
    )  # fmt: skip
    if given["auto_pad"] not in ("NOTSET", "VALID") or given["dilations"] != (1, 1):
        raise foreign(node, "auto_pad and dilations are not read")
    r.add(
        node,
        AvgPool2d(
            given["kernel_shape"],
            stride=given["strides"],
            padding=_sides(node, given["pads"]),
            ceil_mode=bool(given["ceil_mode"]),
            count_include_pad=bool(given["count_include_pad"]),
        ),
    )


def _global_average(r: Reader, node: Any) -> None:
    attributes_of(node)
    r.need_map(node)
    r.add(node, GlobalAvgPool2d())
    r.shape = (1, 1, *r.shape)  # until it is flattened


def _flatten(r: Reader, node: Any) -> None:
    if attributes_of(node, axis=1)["axis"] != 1:
        raise foreign(node, "axis must be 1")
    _to_vector(r, node)


def _reshape(r: Reader, node: Any) -> None:
    attributes_of(node, allowzero=0)
    target = r.parsed.constants.get(node.input[1])
    size = int(np.prod(r.shape))
    if target is None or target.dtype.kind != "i" or target.shape != (2,) or int(target[1]) not in (-1, size):
        raise foreign(node, "it must make a vector of each image")
    if int(target[0]) not in (0, -1, r.parsed.batch) or (int(target[0]) == int(target[1]) == -1):
        raise foreign(node, "it must leave the batch as it is")
    _to_vector(r, node)


def _to_vector(r: Reader, node: Any) -> None:
    after_mean = bool(r.found) and isinstance(r.found[-1].layer, GlobalAvgPool2d)
    if len(r.shape) == 3 and r.channels_first:
        r.turned = r.shape
    if len(r.shape) == 3 and not after_mean:
        r.add(node, Flatten())
    else:
        r.shape = r.shape[-1:]
    r.channels_first = False


def _transpose(r: Reader, node: Any) -> None:
    perm = attributes_of(node, perm=())["perm"]
    if len(r.shape) != 3 or perm != (TO_LAST if r.channels_first else TO_FIRST):
        raise foreign(node, f"perm {perm} does not turn channels last into channels first, or back")
    r.channels_first = not r.channels_first


def _cast(r: Reader, node: Any) -> None:
    if r.found or attributes_of(node, to=None)["to"] != 1:
        raise foreign(node, "only the input is cast, to float32")


def _identity(r: Reader, node: Any) -> None:
    attributes_of(node)


def _dropout(r: Reader, node: Any) -> None:
    attributes_of(node, ratio=0.5, seed=0)
    training = r.parsed.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if training is None or training.any() or len(node.output) != 1:
        raise foreign(node, "it must be inactive")


def _arithmetic(r: Reader, node: Any) -> None:
    """A part of the scaling, before the first layer; or the bias of a product."""
    first = node.input[0] == r.value
    other = node.input[1 if first else 0]
    array = r.parsed.constants.get(other)
    last = r.found[-1].layer if r.found else None
    if node.op_type == "Add" and isinstance(last, Linear) and last.bias is None and array is not None:
        return _add_bias(r, node, 1 if first else 0)
    if r.found or array is None or array.dtype != np.float32 or array.ndim > 4:
        raise foreign(node, "only the input is scaled, by constants")
    if not first and node.op_type in ("Sub", "Div"):
        raise foreign(node, "the input must be its first operand")
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if r.channels_first and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    elif array.size > 1 and r.channels_first:
        raise foreign(node, "its constant must be one number, or (channels, 1, 1)")
    try:
        fits = np.broadcast_shapes(array.shape, r.shape) == r.shape and array.size in (
            1,
            r.shape[-1],
            math.prod(r.shape),
        )
    except ValueError:
        fits = False
    if not fits:
        raise foreign(node, f"its constant {array.shape} must be one number, one for each channel or for each pixel")
    values = array.astype(np.float64)
    scale, offset = r.affine or [np.ones(()), np.zeros(())]
    with np.errstate(all="ignore"):
        if node.op_type in ("Mul", "Div"):
            factor = values if node.op_type == "Mul" else 1.0 / values
            r.affine = [scale * factor, offset * factor]
        else:
            r.affine = [scale, offset + (values if node.op_type == "Add" else -values)]
    return None


def _layer(make: Callable[[Any], Layer]) -> Callable[[Reader, Any], None]:
    return lambda r, node: r.add(node, make(node))


def _gelu(node: Any) -> Layer:
    return GELU(attributes_of(node, approximate="none")["approximate"])


def _plain(make: Callable[[], Layer]) -> Callable[[Reader, Any], None]:
    def read(r: Reader, node: Any) -> None:
        attributes_of(node)
        r.add(node, make())

    return read


Handler = Callable[["Reader", Any], None]
"""Adds what a node is to what a reader has found, or raises CheckpointError, ConfigError or ShapeError."""

HANDLERS: dict[str, Handler] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Conv": _conv,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gelu": _layer(_gelu),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "Identity": _identity,
    "LeakyRelu": _layer(lambda node: LeakyReLU(attributes_of(node, alpha=0.01)["alpha"])),
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Relu": _plain(ReLU),
    "Reshape": _reshape,
    "Tanh": _plain(Tanh),
    "Transpose": _transpose,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
}
assert set(OPERATIONS) & set(HANDLERS) == {"Add", "Sub", "Mul", "Div", "Tanh"}
