"""Models as ONNX files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet.data.scaling import Scaling
from gpunet.data.sources import read
from gpunet.errors import ConfigError, DataError
from gpunet.experiments.inference import check_data
from gpunet.experiments.prepare import prepare
from gpunet.experiments.saved import SavedModel
from gpunet.export.certificate import Certificate, Comparison, certificate_path, certify, compare
from gpunet.export.graph import IR_VERSION, OPSET, build_graph
from gpunet.export.leaves import leaves
from gpunet.export.packages import onnx_packages, onnxruntime_or_none
from gpunet.export.source import LAYOUTS, Source, metadata_of, source_of
from gpunet.files import PathLike, atomic_write
from gpunet.nn import Layer

logger = logging.getLogger("gpunet")

_LARGEST = 2**31 - 2**20  # what a protobuf can hold, less names and nodes


def export_onnx(
    model: Layer | SavedModel | PathLike,
    path: PathLike,
    *,
    inputs: str | None = None,
    layout: str = "NHWC",
    fold: bool = False,
    scaling: Scaling | None = None,
    class_names: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    images: Any = None,
    labels: Any = None,
    data: str | None = None,
    check: bool = True,
    device: str | None = None,
) -> Certificate:
    """Write a model to `path` as ONNX (opset 18, IR version 8), and what was checked to ``path.json`` beside it.

    The file has one input, ``input`` (batch, H, W, C) with any batch, and two outputs, ``logits`` and
    ``probabilities``, float32 (batch, classes). Class names and gpunet's version are in its metadata.

    Args:
        model: a run folder, a file of :func:`gpunet.save`, what :func:`gpunet.load` returns, or a model.
        inputs: ``uint8``: pixels 0..255, the default of models of such; ``float32``: pixels or features with the values
            of the data set, not yet scaled, the default of other ranges and of tables; ``scaled``: what the network
            itself takes, the default of models without a scaling. The first two have the scaling in the graph.
        layout: ``NHWC``, or ``NCHW`` for (batch, C, H, W).
        fold: write batch normalisation as a part of the convolution before it.
        scaling, class_names, input_shape: for a model in memory, as for :func:`gpunet.save`.
        images, labels: what to compare on, (n, H, W, C) with the values of the data set; by default the test images of
            a run's data set, or of the data set `data`.
        check: whether to compare with onnxruntime, where it is installed.

    Returns: the certificate. The logits differ from gpunet's by rounding alone, or nothing is written.

    Raises:
        ConfigError: a layer has no ONNX form; an option does not fit the model; onnx is not installed.
        DataError: the images do not fit the model. GpunetError: onnxruntime computes something else.
        CheckpointError: there is no usable model. OutputError: the file cannot be written.

    >>> from pathlib import Path
    >>> model = gn.models.CNN((8, 8, 1), 2, (4,)).initialize(seed=0)
    >>> certificate = gn.export_onnx(model, "model.onnx", images=np.ones((3, 8, 8, 1), np.float32))
    >>> certificate.input, certificate.layout, certificate.bytes == Path("model.onnx").stat().st_size
    ('scaled', 'NHWC', True)
    """
    onnx, ir = onnx_packages()
    source = source_of(model, scaling=scaling, class_names=class_names, input_shape=input_shape, device=device)
    layout = layout.upper() if isinstance(layout, str) else layout
    if layout not in LAYOUTS:
        raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r:.80}")
    kind = source.checked_input(inputs)
    assert source.model.flat is not None
    if source.model.flat.values.nbytes > _LARGEST:
        raise ConfigError(f"the model has {source.model.flat.values.nbytes:,} bytes, an ONNX file holds {_LARGEST:,}")
    if source.model.flat.dtype != np.float32:
        logger.warning("the model is %s: its weights are exported as float32", source.model.flat.dtype)
    found = leaves(source.model, source.graph_shape)
    graph = build_graph(source, found, kind, layout, fold=fold)
    written = ir.Model(
        graph,
        ir_version=IR_VERSION,
        producer_name="gpunet",
        metadata_props=metadata_of(source, kind, layout, fold=fold),
    )
    proto = ir.to_proto(written)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    comparison, note = None, "not compared with gpunet: the check was left out"
    with atomic_write(path) as temporary:  # a folder that cannot be written is found before the work
        if check:
            comparison, note = _compared(content, source, found, kind, layout, images, labels, data)
        temporary.write_bytes(content)
    facts = {"opset": OPSET, "ir_version": IR_VERSION, "input": kind, "layout": layout, "folded": fold}
    certificate = certify(content, facts, comparison, note)
    certificate.write(certificate_path(path))
    return certificate


def _compared(
    content: bytes, source: Source, found: Any, kind: str, layout: str, images: Any, labels: Any, data: str | None
) -> tuple[Comparison | None, str]:
    """The comparison, and a sentence on it."""
    if onnxruntime_or_none() is None:
        return None, _skipped("onnxruntime is not installed (pip install onnxruntime)")
    if images is None:
        if source.saved is None or (data is None and not source.saved.knows_its_data):
            return None, _skipped("no images were given, and the model does not say what its test images are")
        try:
            images, labels = _test_images(source.saved, data)
        except (DataError, OSError) as error:
            if data is not None:
                raise
            return None, _skipped(f"the test images cannot be read: {error}")
    images = _checked(source, images)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(images),):
            raise DataError(f"expected {len(images)} labels, one for each image, got shape {labels.shape}")
    comparison = compare(content, source, found, kind, layout, images, labels)
    assert comparison is not None
    return comparison, (
        f"onnxruntime's logits of {comparison.images} images differ from gpunet's by at most "
        f"{comparison.largest_difference:.2g}, {100 * comparison.largest_share:.1f} % of what rounding explains"
    )


def _skipped(reason: str) -> str:
    logger.warning("the exported file was not compared with gpunet: %s", reason)
    return f"not compared with gpunet: {reason}"


def _test_images(saved: SavedModel, data: str | None) -> tuple[np.ndarray, np.ndarray]:
    options = saved.data_config(data)
    dataset = prepare(options).test if data is None else read(data, options).test
    check_data(saved, dataset, options.data if data is None else data)
    dataset = dataset.in_range(saved.value_range)
    return dataset.in_memory(), dataset.labels


def _checked(source: Source, images: Any) -> np.ndarray:
    """`images` as an array of the model's inputs, (n, H, W, C) or (n, F)."""
    array = np.asarray(images)
    shape = source.input_shape
    if array.ndim == 3 and len(shape) == 3 and shape[2] == 1:
        array = array[..., None]
    if source.of_table and array.ndim == 2:
        array = array.reshape(len(array), *shape)
    if array.ndim < 2 or array.shape[1:] != shape or not len(array) or array.dtype.kind not in "uif":
        raise DataError(f"images must be numbers (n, {', '.join(map(str, shape))}), got {array.dtype} {array.shape}")
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError("images must be finite numbers")
    return array
