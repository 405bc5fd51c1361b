"""The certificate of an ONNX file: what it computes, compared with gpunet, image by image."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import __version__
from gpunet.backend import Backend
from gpunet.data.loader import Loader
from gpunet.errors import GpunetError
from gpunet.export.leaves import Leaf
from gpunet.export.packages import onnxruntime_or_none
from gpunet.export.rounding import ErrorEstimate, input_errors
from gpunet.export.source import Source, raw_inputs
from gpunet.files import PathLike, write_text_atomic
from gpunet.training.evaluation import predictions

logger = logging.getLogger("gpunet")

SUFFIX = ".json"
"""What is added to the name of the ONNX file."""

_BATCH = 256


@dataclass(frozen=True)
class Comparison:
    """The logits of the file in onnxruntime against gpunet's, over some images.

    >>> model = gn.models.MLP((4, 3, 2)).initialize(seed=0)
    >>> found = gn.export_onnx(model, "model.onnx", images=np.eye(4), labels=[0, 0, 1, 1]).comparison
    >>> found.images, found.argmax_differences, found.largest_share <= 1
    (4, 0, True)
    """

    images: int
    largest_difference: float
    """Of two logits."""
    bound_there: float
    """What rounding explains for that logit; see :mod:`gpunet.export.rounding`."""
    largest_share: float
    """The largest difference as a share of its bound, at most 1."""
    argmax_differences: int
    """Images whose class differs; their two largest logits are as close as rounding."""
    accuracy_gpunet: float | None
    accuracy_onnxruntime: float | None
    """None without labels."""
    onnxruntime: str
    """Its version."""


@dataclass(frozen=True)
class Certificate:
    """What is known of an ONNX file; written beside it as JSON.

    >>> model = gn.models.MLP((4, 3, 2)).initialize(seed=0)
    >>> certificate = gn.export_onnx(model, "model.onnx", check=False)
    >>> certificate.opset, certificate.comparison, certificate.note
    (18, None, 'not compared with gpunet: the check was left out')
    """

    sha256: str
    bytes: int
    opset: int
    ir_version: int
    input: str
    layout: str
    folded: bool
    versions: dict[str, str]
    comparison: Comparison | None
    note: str
    """A sentence on what was compared, or why nothing was."""

    def write(self, path: PathLike) -> None:
        """Write it, as JSON, atomically."""
        write_text_atomic(path, json.dumps(asdict(self), indent=2) + "\n")


def certificate_path(path: PathLike) -> Path:
    """Where the certificate of the file `path` is."""
    return Path(f"{path}{SUFFIX}")


def certify(data: bytes, facts: dict[str, Any], comparison: Comparison | None, note: str) -> Certificate:
    """The certificate of a file with the content `data`."""
    names = ("onnx", "onnx-ir", "numpy")
    versions = {"gpunet": __version__, **{name: version(name) for name in names}}
    digest = hashlib.sha256(data).hexdigest()
    return Certificate(digest, len(data), versions=versions, comparison=comparison, note=note, **facts)


def compare(
    data: bytes,
    source: Source,
    found: list[Leaf],
    kind: str,
    layout: str,
    images: np.ndarray,
    labels: np.ndarray | None,
) -> Comparison | None:
    """Run the file `data` in onnxruntime on `images`, (n, H, W, C) or (n, F) as in a data set of the model's range.

    Returns: None, with a line in the log, if onnxruntime is not installed.

    Raises:
        GpunetError: a logit differs by more than rounding explains.
    """
    runtime = onnxruntime_or_none()
    if runtime is None:
        return None
    assert source.model.flat is not None
    backend = source.model.flat.backend
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    inputs = raw_inputs(source, images, kind)
    own = predictions(source.model, images, lambda rows: _loader(source, rows, backend))
    estimate = ErrorEstimate(found, backend)
    theirs, bounds = np.empty_like(own), np.empty_like(own)
    for start in range(0, len(inputs), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = inputs[rows]
        if layout == "NCHW" and batch.ndim == 4:
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        theirs[rows] = session.run(["logits"], {"input": batch})[0]
        x = _network_inputs(source, images[rows], backend)
        offset: Any = 0.0
        if source.scaling is not None:
            offset = backend.asarray(source.scaling.offset.reshape(-1) if x.ndim == 2 else source.scaling.offset)
        with backend.active():
            errors = x * 0.0 if source.scaling is None else input_errors(x, offset)
        bounds[rows] = estimate.bounds(x, errors)
    return _result(own, theirs, bounds, labels, runtime.__version__)


def _result(
    own: np.ndarray, theirs: np.ndarray, bounds: np.ndarray, labels: np.ndarray | None, runtime: str
) -> Comparison:
    difference = np.abs(own.astype(np.float64) - theirs)
    if not np.isfinite(difference).all():
        raise GpunetError("some logits of the exported model are NaN or infinite: its weights are too large")
    # Where nothing is rounded, as for black images and no biases, the bound is 0, and the logits are equal.
    shares = np.divide(difference, bounds, out=np.where(difference > 0, np.inf, 0.0), where=bounds > 0)
    worst = np.unravel_index(difference.argmax(), difference.shape)
    mine, other = own.argmax(1), theirs.argmax(1)
    if shares.max() > 1.0:
        row, column = np.unravel_index(shares.argmax(), shares.shape)
        raise GpunetError(
            f"onnxruntime computes another network: logit {column} of image {row} is {theirs[row, column]:.6g}, "
            f"gpunet's {own[row, column]:.6g}, and rounding explains {bounds[row, column]:.2g}; nothing was written"
        )
    known = labels is not None
    return Comparison(
        len(own),
        float(difference[worst]),
        float(bounds[worst]),
        float(shares.max()),
        int((mine != other).sum()),
        float((mine == labels).mean()) if known else None,
        float((other == labels).mean()) if known else None,
        runtime,
    )


def _loader(source: Source, rows: np.ndarray, backend: Backend) -> Loader:
    labels = np.zeros(len(rows), np.int32)
    assert source.model.flat is not None
    dtype = source.model.flat.dtype
    if source.scaling is None:
        return Loader(rows.astype(dtype), labels, backend=backend, dtype=dtype)
    if rows.dtype != np.uint8:
        return Loader(source.scaling.apply(rows), labels, backend=backend, dtype=dtype)
    scaling = source.scaling
    return Loader(rows, labels, backend=backend, dtype=dtype, scale=scaling.scale, offset=scaling.offset)


def _network_inputs(source: Source, rows: np.ndarray, backend: Backend) -> Any:
    """What the network gets, float32 on the device, in the shape of the file's inputs."""
    found = rows.astype(np.float32) if source.scaling is None else source.scaling.apply(rows)
    return backend.asarray(found.reshape(len(rows), *source.graph_shape))
