"""The nodes of a parsed ONNX graph, one after the other, as gpunet's layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.data.scaling import Scaling
from gpunet.errors import CheckpointError, ConfigError, DataError, ShapeError
from gpunet.export.elementwise import foreign, known_function
from gpunet.export.leaves import chw_order
from gpunet.export.nodes import HANDLERS
from gpunet.export.parse import Parsed, attributes_of
from gpunet.nn import Layer


@dataclass(frozen=True)
class Found:
    """A layer of the graph, without arrays, and its values."""

    node: Any
    layer: Layer
    values: dict[str, np.ndarray]
    """By the name of the layer's parameter or buffer, in gpunet's layout."""


class Reader:
    """Walks along the graph from its input to the logits."""

    def __init__(self, parsed: Parsed, layout: str) -> None:
        self.parsed = parsed
        self.found: list[Found] = []
        self.value = parsed.input
        self.channels_first = layout == "NCHW" and len(parsed.shape) == 3
        sides = parsed.shape
        self.shape = (*sides[1:], sides[0]) if self.channels_first else sides
        """(H, W, C) or (F,), whatever the layout."""
        self.input_shape = self.shape
        self.turned: tuple[int, ...] | None = None
        """The shape (H, W, C) of the map that the vector was, if its values have the order of (C, H, W)."""
        self.affine: list[np.ndarray] | None = None
        """Scale and offset of the input before the first layer, as far as they are read."""
        self._used: set[int] = set()

    def read(self) -> None:
        """Follow the graph to its end.

        Raises:
            CheckpointError: a node, or one of its attributes, is none that gpunet's layers have.
        """
        while users := self.parsed.users.get(self.value, []):
            node = users[0]
            many = len(users) > 1
            if many and (known := known_function(self.value, self.parsed.users, self.parsed.constants)):
                layer, self.value, nodes = known
                self._used.update(map(id, nodes))
                self.found.append(Found(nodes[-1], layer, {}))
                continue
            if node.op_type == "Softmax" and not many and self._ends(node):
                break
            handler = HANDLERS.get(node.op_type)
            if many or handler is None:
                others = [one for one in users if one.op_type not in HANDLERS] or users
                raise foreign(others[0], "" if not many else "several nodes read the same value")
            try:
                handler(self, node)
            except (ConfigError, ShapeError) as error:
                raise foreign(node, str(error)) from error
            self._used.add(id(node))
            self.value = node.output[0]
        self._check_end()

    def _ends(self, node: Any) -> bool:
        """Whether this is the softmax of the logits."""
        axis = attributes_of(node, axis=-1)["axis"]
        if axis not in (1, -1) or self.parsed.users.get(node.output[0]) or node.output[0] not in self.parsed.outputs:
            return False
        self._used.add(id(node))
        return True

    def _check_end(self) -> None:
        ends = {self.value} | {node.output[0] for node in self.parsed.nodes if id(node) in self._used}
        if not self.parsed.outputs <= ends or len(self.shape) != 1:
            raise CheckpointError("the graph does not end in one vector of logits for each image")
        for node in self.parsed.nodes:
            if id(node) not in self._used:
                raise foreign(node, "it is not on the way from the images to the logits")

    @property
    def scaling(self) -> Scaling | None:
        """What the graph does to its input before the first layer, if anything; for a table (1, 1, F)."""
        if self.affine is None:
            return None
        shape = self.input_shape if len(self.input_shape) == 3 else (1, 1, *self.input_shape)
        per_pixel = any(array.ndim == 3 and array.shape[:2] != (1, 1) for array in self.affine)
        target = shape if per_pixel else (1, 1, shape[-1])
        try:
            return Scaling(*(np.broadcast_to(array, target).astype(np.float32) for array in self.affine))
        except DataError as error:
            raise CheckpointError(f"the scaling of the inputs is not usable: {error}") from error

    def constant(self, node: Any, position: int, *ranks: int) -> np.ndarray:
        """The float32 constant that is input `position` of `node`, of one of the `ranks`."""
        name = node.input[position] if position < len(node.input) else ""
        array = self.parsed.constants.get(name)
        if array is None or array.dtype != np.float32 or array.ndim not in ranks:
            raise foreign(
                node, f"its input {position} must be a float32 constant of rank {' or '.join(map(str, ranks))}"
            )
        return array

    def add(self, node: Any, layer: Layer, **values: np.ndarray) -> None:
        """Adds a layer, whose shape must fit."""
        self.shape = tuple(layer.output_shape(self.shape))
        self.found.append(Found(node, layer, values))

    def in_order(self, array: np.ndarray) -> np.ndarray:
        """`array`, with an entry or a row for each value of the current vector, in gpunet's order of these values."""
        order = None if self.turned is None else chw_order(self.turned)
        if order is None:
            return array
        found = np.empty_like(array)
        found[order] = array
        return found

    def need_map(self, node: Any) -> None:
        """Raises unless the current value is a map with its channels first, as ONNX wants it."""
        if len(self.shape) != 3 or not self.channels_first:
            raise foreign(node, "it needs maps (batch, channels, height, width)")
