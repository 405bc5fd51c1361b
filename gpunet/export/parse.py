"""From an ONNX file to a list of gpunet's layers with their values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet.errors import CheckpointError, GpunetError
from gpunet.export.packages import onnx_packages
from gpunet.files import PathLike, read_regular

_LARGEST_FILE = 2**31 - 1  # of a protobuf
_LARGEST_SIDE = 2**24
_OPSETS = range(11, 28)
_FLOAT, _UINT8 = 1, 2


@dataclass
class Parsed:
    """A graph of one input, in order."""

    input: str
    shape: tuple[int, ...]
    """Of the input, without the batch."""
    batch: int | None
    """The batch size, if the file fixes it: PyTorch's exporter does so by default, and has it in reshapes, too."""
    dtype: str
    """``float32`` or ``uint8``."""
    nodes: list[Any]
    """Without those of constants."""
    constants: dict[str, np.ndarray]
    outputs: set[str]
    metadata: dict[str, str]
    users: dict[str, list[Any]] = field(default_factory=dict)
    """The nodes that read a value."""

    def __post_init__(self) -> None:
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.users.setdefault(name, []).append(node)


def parse(path: PathLike) -> Parsed:
    """The graph in the ONNX file at `path`. Weights in other files are refused, and nothing is run.

    Raises:
        CheckpointError: there is no such file, it is no valid ONNX model, or its graph has not one input of images or
            features, float32 or uint8.
        ConfigError: onnx is not installed.
    """
    onnx, _ = onnx_packages()
    try:
        content = read_regular(path, limit=_LARGEST_FILE)
    except FileNotFoundError:
        raise CheckpointError(f"there is no ONNX file {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        proto = onnx.ModelProto.FromString(content)
    except Exception as error:  # DecodeError, of whichever protobuf onnx uses
        raise CheckpointError(f"{path} is no ONNX file: {error!s:.200}") from error
    try:
        return _parsed(onnx, proto)
    except GpunetError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _parsed(onnx: Any, proto: Any) -> Parsed:
    graph = proto.graph
    if not graph.node:
        raise CheckpointError("it is no ONNX model: it has no nodes")
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.name == "value")]
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise CheckpointError(
                f"the values of {tensor.name!r:.80} are in another file: save it with all values inside "
                "(onnx.save_model with save_as_external_data=False)"
            )
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # ValidationError, and what the library raises for text that is not UTF-8
        raise CheckpointError(f"it is no valid ONNX model: {' '.join(str(error).split())[:300]}") from error
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets.get("", opsets.get("ai.onnx")) not in _OPSETS:
        raise CheckpointError(f"it has opset {opsets.get('')}, expected {_OPSETS[0]} to {_OPSETS[-1]}")
    constants = {tensor.name: _array(onnx, tensor) for tensor in graph.initializer}
    if graph.sparse_initializer or len(proto.functions):
        raise CheckpointError("it has sparse weights or functions, which gpunet's models have not")
    nodes = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise CheckpointError(
                f"the node {node.name!r:.80} ({node.domain:.40}.{node.op_type:.40}) is of no ONNX domain"
            )
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(onnx, node)
        else:
            nodes.append(node)
    inputs = [entry for entry in graph.input if entry.name not in constants]
    if len(inputs) != 1:
        raise CheckpointError(f"it has {len(inputs)} inputs, expected one: the images")
    batch, shape, dtype = _input_of(inputs[0])
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    outputs = {entry.name for entry in graph.output}
    return Parsed(inputs[0].name, shape, batch, dtype, nodes, constants, outputs, metadata)


def _input_of(entry: Any) -> tuple[int | None, tuple[int, ...], str]:
    kind = entry.type.tensor_type
    dtype = {_FLOAT: "float32", _UINT8: "uint8"}.get(kind.elem_type)
    sides = [side.dim_value if side.HasField("dim_value") else None for side in kind.shape.dim]
    known = [side for side in sides[1:] if side is not None and 1 <= side <= _LARGEST_SIDE]
    if dtype is None or len(sides) not in (2, 4) or len(known) != len(sides) - 1:
        raise CheckpointError(
            f"its input {entry.name!r:.80} must be float32 or uint8 of a known shape (batch, ...) of 2 or 4 dimensions"
        )
    return sides[0], tuple(known), dtype


def _constant(onnx: Any, node: Any) -> np.ndarray:
    for attribute in node.attribute:
        if attribute.name == "value":
            return _array(onnx, attribute.t)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float32)
        if attribute.name in ("value_int", "value_ints"):
            return np.asarray(attribute.i if attribute.name == "value_int" else list(attribute.ints), np.int64)
    raise CheckpointError(f"the node {node.name!r:.80} (Constant) has no value that gpunet reads")


def _array(onnx: Any, tensor: Any) -> np.ndarray:
    if tensor.data_type not in (_FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        raise CheckpointError(f"the values of {tensor.name!r:.80} must be float32 or whole numbers")
    try:
        found = np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:
        raise CheckpointError(f"the values of {tensor.name!r:.80} cannot be read: {error!s:.200}") from error
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise CheckpointError(f"the values of {tensor.name!r:.80} are not all finite")
    return found


def attributes_of(node: Any, **defaults: Any) -> dict[str, Any]:
    """The attributes of `node` that `defaults` name, lists as tuples.

    Raises:
        CheckpointError: it has another one, or one of another type than its default.
    """
    onnx, _ = onnx_packages()
    found = dict(defaults)
    for attribute in node.attribute:
        name = attribute.name
        if name not in defaults:
            raise CheckpointError(f"the node {node.name!r:.80} ({node.op_type:.40}) has the attribute {name!r:.40}")
        value = onnx.helper.get_attribute_value(attribute)
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        value = tuple(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else value
        expected = defaults[name]
        if expected is not None and type(value) is not type(expected):
            raise CheckpointError(
                f"the node {node.name!r:.80} ({node.op_type:.40}) has {name} = {value!r:.80}, expected a value like "
                f"{expected!r}"
            )
        found[name] = value
    return found
