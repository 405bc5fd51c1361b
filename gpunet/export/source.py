"""What is exported: a model with its scaling, its classes and the shape of its inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.data.dataset import EIGHT_BITS
from gpunet.data.scaling import Scaling
from gpunet.errors import ConfigError
from gpunet.experiments.saved import SavedModel, load_model
from gpunet.files import PathLike
from gpunet.models import Description
from gpunet.models.registry import kind_of
from gpunet.nn import Layer
from gpunet.nn.layer import Shape
from gpunet.options import option_fields
from gpunet.tasks import CLASSIFICATION

INPUTS = ("uint8", "float32", "scaled")
"""What an exported model takes: pixels 0..255; numbers as in the data set; or numbers that are scaled already."""
LAYOUTS = ("NHWC", "NCHW")

_NOT_EXPORTED = "ONNX files are written of classifiers only; gpunet.save keeps it, to_torch_state_dict its weights"


@dataclass(frozen=True)
class Source:
    """A model, and what a file says of it beside its weights."""

    model: Layer
    input_shape: Shape
    """(H, W, C), or (F,) for features."""
    class_names: tuple[str, ...]
    scaling: Scaling | None
    value_range: tuple[float, float]
    saved: SavedModel | None
    """The saved model that it is of, which knows its data."""

    @property
    def of_table(self) -> bool:
        """Whether it takes the features of a table."""
        return self.saved is not None and self.saved.of_table

    @property
    def graph_shape(self) -> Shape:
        """The shape of an input of the file, channels last; that of a table's row is (F,)."""
        return self.input_shape[-1:] if self.of_table else self.input_shape

    def options(self) -> dict[str, Any] | None:
        """The options of the model, for the file to be read again; None if it does not know them."""
        found = self.model.description
        if not isinstance(found, Description):
            return None
        config = found.config
        return {"kind": kind_of(config).name, **{name: getattr(config, name) for name in option_fields(type(config))}}

    def checked_input(self, kind: str | None) -> str:
        """`kind`, one of INPUTS, or what suits the model if it is None.

        Raises:
            ConfigError: the model cannot take it.
        """
        pixels = self.scaling is not None and self.value_range == EIGHT_BITS and not self.of_table
        if kind is None:
            return "uint8" if pixels else "scaled" if self.scaling is None else "float32"
        if kind not in INPUTS:
            raise ConfigError(f"inputs must be one of {', '.join(INPUTS)}, got {kind!r:.80}")
        if kind != "scaled" and self.scaling is None:
            raise ConfigError(
                f"the model has no scaling, so it takes its inputs as they are: input 'scaled', not {kind!r}"
            )
        if kind == "uint8" and not pixels:
            low, high = self.value_range
            what = "the features of a table" if self.of_table else f"pixels from {low:g} to {high:g}"
            raise ConfigError(f"the model was trained on {what}, not on 0..255: export it as inputs 'float32'")
        return kind


def source_of(
    model: Layer | SavedModel | PathLike,
    *,
    scaling: Scaling | None = None,
    class_names: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    device: str | None = None,
) -> Source:
    """What `model` is: a layer with the given facts, or a saved model, which has its own.

    Raises:
        ConfigError: the facts do not fit the model, or are given for a saved one; the model has no arrays.
        CheckpointError: there is no usable model at the path. ShapeError: the layers do not fit the input shape.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model, device)
    if isinstance(model, SavedModel) and model.task != CLASSIFICATION:
        raise ConfigError(f"the model in {model.file} was trained for {model.task}: {_NOT_EXPORTED}")
    if isinstance(model, Layer) and model.target_scaling is not None:
        raise ConfigError(f"the model was trained for a regression: {_NOT_EXPORTED}")
    if isinstance(model, SavedModel):
        given = {"scaling": scaling, "class_names": class_names, "input_shape": input_shape}
        if names := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"a saved model has its own {', '.join(names)}: leave out what is given")
        shape = model.input_shape
        return Source(model.model, shape, model.class_names, model.pixel_scaling, model.value_range, model)
    if not isinstance(model, Layer):
        raise ConfigError(f"expected a model, a saved model or the path of one, got {type(model).__name__}")
    if model.flat is None or not model.flat.current:
        raise ConfigError("the model has no arrays of its own: call model.initialize(seed) before exporting it")
    shape = _input_shape(model, input_shape)
    outputs = model.output_shape(shape)
    if len(outputs) != 1:
        raise ConfigError(f"the model's output must be one vector of logits, got shape {tuple(outputs)}")
    names = [str(number) for number in range(outputs[0])] if class_names is None else list(class_names)
    if len(names) != outputs[0] or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"class_names must be {outputs[0]} strings, got {names!r:.200}")
    if scaling is not None and (len(shape) != 3 or scaling.scale.shape not in (shape, (1, 1, shape[-1]))):
        raise ConfigError(f"a scaling {scaling.scale.shape} does not fit inputs {shape}: it needs images (H, W, C)")
    return Source(model, shape, tuple(names), scaling, EIGHT_BITS, None)


def _input_shape(model: Layer, given: Sequence[int] | None) -> Shape:
    if given is not None:
        return tuple(int(side) for side in given)
    if not isinstance(model.description, Description):
        raise ConfigError("the model does not say what it takes: give input_shape=(H, W, C), or (F,) for features")
    return model.description.input_shape


def metadata_of(source: Source, kind: str, layout: str, *, fold: bool) -> dict[str, str]:
    """What the file's metadata say, as text; see ``docs/howto/onnx.md``."""
    from gpunet import __version__

    entry = {
        "kind": kind,
        "layout": layout,
        "shape": list(source.input_shape),
        "value_range": list(source.value_range),
        "table": source.of_table,
    }
    found = {
        "gpunet_version": __version__,
        "class_names": json.dumps(list(source.class_names), ensure_ascii=False),
        "input": json.dumps(entry),
    }
    options = source.options()
    if options is not None and fold and "batch_norm" in options:
        options["batch_norm"] = False
    return found if options is None else {**found, "model": json.dumps(options)}


def raw_inputs(source: Source, images: np.ndarray, kind: str) -> np.ndarray:
    """`images`, (n, H, W, C) as in a data set of the model's range, as the file takes them, channels last."""
    if kind == "scaled" and source.scaling is not None:
        images = source.scaling.apply(images)
    elif kind != "uint8":
        images = images.astype(np.float32)
    return np.ascontiguousarray(images.reshape(len(images), *source.graph_shape))
