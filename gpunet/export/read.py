"""ONNX files as models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import Backend
from gpunet.data.dataset import EIGHT_BITS
from gpunet.data.scaling import Scaling
from gpunet.devices import get_backend
from gpunet.errors import CheckpointError, ConfigError
from gpunet.experiments.saved import SavedModel, as_saved
from gpunet.export.match import match
from gpunet.export.nodes import TO_FIRST
from gpunet.export.parse import Parsed, parse
from gpunet.export.reader import Reader
from gpunet.export.source import INPUTS, LAYOUTS
from gpunet.files import PathLike, parse_json
from gpunet.text import printable


def import_onnx(
    path: PathLike,
    *,
    layout: str | None = None,
    value_range: tuple[float, float] | None = None,
    class_names: list[str] | None = None,
    device: str | Backend | None = None,
) -> SavedModel:
    """The model in an ONNX file: one that gpunet has written, or one of the same layers. Nothing in the file is run.

    It has the bits of what was exported; batch normalisation that was folded stays so. :func:`gpunet.save` takes it.

    Args:
        layout: of an input of images of a file that is not gpunet's: ``NHWC`` or ``NCHW``; by default what the
            first node wants.
        value_range: of a file that is not gpunet's: the pixel values of black and white, such as (0, 1), which it takes
            as floats. Without it, inputs reach the network unchanged, unless the file takes uint8.
        class_names: by default those in the file, else 0, 1, 2 and so on.
        device: where the model goes; by default that of :func:`gpunet.get_backend`.

    Raises:
        CheckpointError: there is no such file, it is damaged, or a node is none that gpunet's models have: it is named.
        ConfigError: an option does not fit the file; onnx is not installed.

    >>> model = gn.models.CNN((8, 8, 1), 2, (4,)).initialize(seed=0)
    >>> certificate = gn.export_onnx(model, "model.onnx", class_names=["cat", "dog"], check=False)
    >>> saved = gn.import_onnx("model.onnx")
    >>> saved.class_names, saved.predict_proba(np.zeros((5, 8, 8, 1))).shape
    (('cat', 'dog'), (5, 2))
    """
    parsed = parse(path)
    try:
        return _saved(parsed, Path(path), layout, value_range, class_names, get_backend(device))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {printable(str(error))}") from error


def _saved(
    parsed: Parsed,
    path: Path,
    layout: str | None,
    value_range: tuple[float, float] | None,
    class_names: list[str] | None,
    backend: Backend,
) -> SavedModel:
    about = _about(parsed)
    if about and (layout is not None or value_range is not None):
        raise ConfigError("the file is gpunet's and has its own layout and value_range: leave these out")
    reader = Reader(parsed, _layout(parsed, layout, about))
    reader.read()
    shape = _shape(reader, about)
    scaling, known_range = _scaling(parsed, reader, about, value_range)
    classes = reader.shape[0]
    names = class_names or _names(parsed) or [str(number) for number in range(classes)]
    if len(names) != classes or len(set(names)) != classes or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"class_names must be {classes} different strings, got {names!r:.200}")
    table = bool(about.get("table", False))
    if scaling is not None and len(shape) != 3:
        raise CheckpointError(f"the file scales inputs {shape}, which gpunet does for images alone")
    model, values = match(reader.found, shape, classes, _stored(parsed))
    model.initialize(0, device=backend)
    assert model.flat is not None
    model.flat.load_state_dict(values)
    return as_saved(
        model, path, scaling=scaling, class_names=names, input_shape=shape, value_range=known_range, table=table
    )


def _json(parsed: Parsed, key: str) -> Any:
    if key not in parsed.metadata:
        return None
    try:
        return parse_json(parsed.metadata[key])
    except ValueError as error:
        raise CheckpointError(f"its metadata {key} are not JSON: {error}") from error


def _about(parsed: Parsed) -> dict[str, Any]:
    """What the metadata of a file of gpunet say of its input; empty for other files.

    Raises:
        CheckpointError: they make no sense.
    """
    if "gpunet_version" not in parsed.metadata:
        return {}
    about = _json(parsed, "input")
    expected = {"kind": str, "layout": str, "shape": list, "value_range": list, "table": bool}
    if not isinstance(about, dict) or any(not isinstance(about.get(key), kind) for key, kind in expected.items()):
        raise CheckpointError(f"its metadata must describe the input, got {about!r:.80}")
    sides, ends = about["shape"], about["value_range"]
    if (
        about["kind"] not in INPUTS
        or about["layout"] not in LAYOUTS
        or any(type(side) is not int for side in sides)
        or math.prod(sides) != math.prod(parsed.shape)
        or len(ends) != 2
        or not all(type(end) in (int, float) and abs(end) < math.inf for end in ends)
        or not ends[0] < ends[1]
    ):
        raise CheckpointError(f"its metadata describe another input than its graph has: {about!r:.200}")
    return about


def _stored(parsed: Parsed) -> dict[str, Any] | None:
    if "gpunet_version" not in parsed.metadata:
        return None
    stored = _json(parsed, "model")
    if stored is not None and not isinstance(stored, dict):
        raise CheckpointError(f"its metadata must hold the model's options, got {stored!r:.80}")
    return stored


def _names(parsed: Parsed) -> list[str] | None:
    names = _json(parsed, "class_names") if "gpunet_version" in parsed.metadata else None
    if names is not None and not isinstance(names, list):
        raise CheckpointError(f"its metadata must hold a list of class names, got {names!r:.80}")
    return names


def _layout(parsed: Parsed, given: str | None, about: dict[str, Any]) -> str:
    if given is not None and given.upper() not in LAYOUTS:
        raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}, got {given!r:.80}")
    if about:
        return str(about["layout"])
    if given is not None:
        return given.upper()
    for node in parsed.nodes:
        if node.op_type == "Transpose":
            first = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ())
            return "NHWC" if first == TO_FIRST else "NCHW"
        if node.op_type in ("Conv", "Flatten", "Reshape"):
            break
    return "NCHW"


def _shape(reader: Reader, about: dict[str, Any]) -> tuple[int, ...]:
    """The shape of an input, as the model knows it."""
    shape = reader.input_shape
    if about.get("table") and len(shape) == 1:
        return (1, 1, *shape)
    if about and tuple(about["shape"]) != shape:
        raise CheckpointError(f"its metadata say that inputs are {tuple(about['shape'])}, but its graph takes {shape}")
    return shape


def _scaling(
    parsed: Parsed, reader: Reader, about: dict[str, Any], value_range: tuple[float, float] | None
) -> tuple[Scaling | None, tuple[float, float]]:
    """The scaling of pixels, and the range of their values."""
    found = reader.scaling
    if about:
        low, high = about["value_range"]
        return found, (float(low), float(high))
    if found is None and (parsed.dtype == "uint8" or value_range is not None) and len(reader.input_shape) == 3:
        one = np.ones((1, 1, reader.input_shape[-1]), np.float32)
        found = Scaling(one, np.zeros_like(one))
    if parsed.dtype == "uint8":
        return found, EIGHT_BITS
    if value_range is None:
        if found is not None:
            raise ConfigError(
                "the file scales float pixels of a range that it does not say: give it, as value_range=(0, 1) or "
                "--value-range 0 1"
            )
        return None, EIGHT_BITS
    low, high = value_range
    if not low < high:
        raise ConfigError(f"value_range must be a lower and a higher number, got {value_range}")
    return found, (float(low), float(high))
