"""The report of one run, as a self-contained HTML page."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.data.dataset import Dataset
from gpunet.data.loader import Loader
from gpunet.data.scaling import Scaling
from gpunet.models import MODELS
from gpunet.nn import ForwardContext, Sequential
from gpunet.report.canvas import displayable, drawing
from gpunet.report.charts import (
    draw_confidences,
    draw_curves,
    draw_durations,
    draw_map,
    draw_rate,
    draw_reliability,
)
from gpunet.report.data_uri import coloured_uri, filter_uri, picture_uri
from gpunet.report.html import render
from gpunet.report.metrics import MOST_CLASSES, calibration, principal_plane
from gpunet.report.ranking import channels_that_vary, most_confident_mistakes, strongest_filters
from gpunet.report.run_figures import block_maps, first_weight, smoothing, visible
from gpunet.report.run_record import RunRecord, SplitResult
from gpunet.training.evaluation import EVALUATION_BATCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERED = 25  # classes whose confusions are shown as numbers
_MOST_CONFUSIONS = 12
_MOST_MISTAKES = 24
_MOST_POINTS = 5000
_MOST_TSNE_POINTS = 2000
_MOST_FEATURE_VALUES = 2**25  # float64: 256 MiB
_TSNE_INPUTS = 50


def run_report(
    facts: RunRecord,
    result: SplitResult,
    model: Sequential,
    scaling: Scaling,
    loader: Loader,
    *,
    layers: str,
    tsne: bool = False,
) -> str:
    """The page of one run.

    Args:
        facts: the contents of the run folder.
        result: the results of `model` on one split of the data, which the page shows.
        model: with its trained weights; its last layer is linear.
        scaling: of pixels to the model's inputs.
        loader: the images of `result` on the model's device.
        layers: the table of the model's layers.
        tsne: add a t-SNE map of the features (slow).
    """
    from markupsafe import Markup

    def chart(
        name: str, description: str, draw: Any, *arguments: Any, width: float = 3.7, height: float = 2.6
    ) -> Markup:
        def on(figure: Figure) -> None:
            draw(*arguments, figure.subplots())

        return Markup(drawing(on, width, height, name=name, description=description))

    history = facts.history
    curves = []
    if history:
        options = facts.options
        smoothed = smoothing(
            options.get("label_smoothing", 0.0), options.get("class_weights", "none"), result.dataset.classes
        )
        curves = [
            chart("loss", "Loss over the epochs", functools.partial(draw_curves, **smoothed), history, "loss"),
            chart("accuracy", "Accuracy over the epochs", draw_curves, history, "accuracy"),
            chart("rate", "Learning rate over the epochs", draw_rate, history),
        ]
    found = calibration(result.dataset.labels, result.probabilities)
    calibration_charts = [
        chart("reliability", "Accuracy over confidence", draw_reliability, found),
        chart("confidences", "Share of images by confidence", draw_confidences, found),
    ]
    features, chosen = _features(model, loader)
    maps = [
        (
            chart(name, f"Map of the features, {name}", draw_map, plane, labels, names, width=4.6, height=4.0),
            caption,
        )
        for name, plane, labels, names, caption in _feature_planes(features, chosen, result, tsne)
    ]
    rows = result.classes
    return render(
        "run.html",
        facts=facts,
        result=result,
        **headline(facts),
        curves=curves,
        class_names=result.dataset.class_names,
        **_confusion(result),
        classes=[{**row._asdict(), "name": result.dataset.class_names[row.label]} for row in rows],
        macro=[float(np.mean([getattr(row, measure) for row in rows])) for measure in ("precision", "recall", "f1")],
        calibration=found,
        calibration_charts=calibration_charts,
        mean_confidence=float(result.probabilities.max(axis=1).mean(dtype=np.float64)),
        label_smoothing=facts.options.get("label_smoothing"),
        mistakes=_mistakes(result),
        feature_count=features.shape[1],
        shown_images=len(features),
        feature_charts=[{"svg": svg, "caption": caption} for svg, caption in maps],
        filters=_filters(model, result.dataset.image_shape),
        maps=_maps(model, result.dataset.images[:1], scaling),
        example=_image(result, 0),
        **about(facts, chart("seconds", "Seconds per epoch", draw_durations, history) if history else "", layers),
        measured=[],
    )


def about(facts: RunRecord, duration_chart: str, layers: str) -> dict[str, Any]:
    """The content of ``about.html``, but for the metrics that are ``measured``."""
    history = facts.history
    return {
        "duration_chart": duration_chart,
        "median_seconds": median(row["seconds"] for row in history) if history else 0.0,
        "staged": any(row.get("stage") for row in history),
        "peak_memory": (facts.result or {}).get("peak_memory_bytes"),
        "configuration": _configuration(facts),
        "layers": layers,
        "environment": [(name, _shown(value)) for name, value in (facts.environment or {}).items()],
    }


def headline(facts: RunRecord) -> dict[str, Any]:
    """What is shown first, but for the results."""
    from gpunet import __version__

    options = facts.options
    planned = sum(options.get(name, 0) for name in ("epochs", "classifier_epochs", "joint_epochs"))
    speed = (facts.result or {}).get("images_per_second")
    data = str(options["data"])
    return {
        "model_name": MODELS[facts.kind].label,
        "data_name": "Fashion-MNIST" if data == "fashion-mnist" else data,
        "device": (facts.result or facts.environment or {}).get("device"),
        "planned_epochs": planned,
        "chosen": facts.chosen,
        "speed": f"{speed:,.0f} images/s" if speed else "",
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }


def _confusion(result: SplitResult) -> dict[str, Any]:
    names = result.dataset.class_names
    confusions = _confusions(result)
    if len(names) > MOST_CLASSES:
        return {"matrix": None, "matrix_picture": None, "confusions": confusions}
    counts = result.matrix
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.zeros(counts.shape), where=support > 0)
    if len(names) > _MOST_NUMBERED:
        picture = coloured_uri(np.sqrt(shares), "Blues", 0, 1)
        return {"matrix": None, "matrix_picture": picture, "confusions": confusions}

    def cell(i: int, j: int) -> dict[str, Any]:
        strength = round(100 * math.sqrt(shares[i, j]), 1)
        classes = ["hit"] if i == j else []
        return {
            "images": int(counts[i, j]),
            "strength": strength,
            "classes": " ".join([*classes, "strong"] if strength > 60 else classes),
            "title": f"{names[i]} predicted as {names[j]}: {100 * shares[i, j]:.1f} %",
        }

    matrix = [{"name": name, "cells": [cell(i, j) for j in range(len(names))]} for i, name in enumerate(names)]
    return {"matrix": matrix, "matrix_picture": None, "confusions": confusions}


def _confusions(result: SplitResult) -> list[dict[str, Any]]:
    """The most frequent pairs of a true and a wrongly predicted class; ties go to the lower classes."""
    names, labels = result.dataset.class_names, result.dataset.labels.astype(np.int64)
    wrong = ~result.right
    pairs, images = np.unique(labels[wrong] * len(names) + result.predictions[wrong], return_counts=True)
    support = np.bincount(labels, minlength=len(names))
    found = []
    for place in np.argsort(-images, kind="stable")[:_MOST_CONFUSIONS]:
        true, predicted = divmod(int(pairs[place]), len(names))
        count = int(images[place])
        share = count / int(support[true])
        found.append({"true": names[true], "predicted": names[predicted], "images": count, "share": share})
    return found


def _image(result: SplitResult, index: int) -> dict[str, Any]:
    names, label, prediction = result.dataset.class_names, result.dataset.labels[index], result.predictions[index]
    return {
        "index": index,
        "uri": picture_uri(_picture(result.dataset, index)),
        "true": names[label],
        "predicted": names[prediction],
        "confidence": float(result.probabilities[index, prediction]),
        "share": float(result.probabilities[index, label]),
    }


def _picture(dataset: Dataset, index: int) -> np.ndarray:
    image = visible(dataset, slice(index, index + 1))[0]
    return displayable(image if image.dtype == np.uint8 else np.rint(255 * image).astype(np.uint8))


def _mistakes(result: SplitResult) -> list[dict[str, Any]]:
    confidence = result.probabilities.max(axis=1)
    order = most_confident_mistakes(result.dataset.labels, result.predictions, confidence)[:_MOST_MISTAKES]
    return [_image(result, int(index)) for index in order]


def _filters(model: Sequential, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    found = strongest_filters(first_weight(model), image_shape)
    height, width, channels = found.weight.shape[:3]
    return {
        "count": found.count,
        "limit": found.limit,
        "colour": channels == 3,
        "large": max(height, width) > 7,
        "pictures": [
            {"index": int(index), "uri": filter_uri(found.weight[..., index], found.limit)} for index in found.order
        ],
    }


def _maps(model: Sequential, image: np.ndarray, scaling: Scaling) -> list[dict[str, Any]]:
    blocks = []
    for name, values in block_maps(model, image, scaling):
        array = values.astype(np.float64)
        height, width, channels = array.shape
        low, high = float(array.min()), float(array.max())
        order = channels_that_vary(array)
        blocks.append(
            {
                "name": name,
                "shape": f"{height} x {width}, {channels} {'channel' if channels == 1 else 'channels'}",
                "channels": [
                    {"index": int(index), "uri": coloured_uri(array[..., index], "viridis", low, high)}
                    for index in order
                ],
            }
        )
    return blocks


def penultimate(model: Sequential) -> Sequential:
    """`model` without its last layer; the layers are shared, not copied."""
    *kept, (name, last) = model.layers.items()
    return Sequential([*kept, (name, penultimate(last))] if isinstance(last, Sequential) else kept)


def _features(model: Sequential, loader: Loader) -> tuple[np.ndarray, np.ndarray]:
    """The inputs (n, F) of the last layer in inference mode for evenly spaced images, and their indices (n,)."""
    body = penultimate(model)
    width = math.prod(body.output_shape(loader.input_shape))
    most = min(loader.size, _MOST_POINTS, max(2, _MOST_FEATURE_VALUES // width))
    chosen = np.unique(np.linspace(0, loader.size - 1, most).astype(np.int64))
    kept, start = [], 0
    for x, _ in loader.batches(EVALUATION_BATCH):
        inside = chosen[(chosen >= start) & (chosen < start + len(x))] - start
        if len(inside):
            output = loader.backend.to_numpy(body.forward(x, ForwardContext())[0])
            kept.append(output.reshape(len(output), -1)[inside])
        start += len(x)
    return np.concatenate(kept).astype(np.float64), chosen


def _feature_planes(
    features: np.ndarray, chosen: np.ndarray, result: SplitResult, tsne: bool
) -> list[tuple[str, np.ndarray, np.ndarray, Sequence[str], str]]:
    """Name, points (n, 2), labels (n,), class names and caption of each map."""
    labels, names = result.dataset.labels[chosen], result.dataset.class_names
    plane, shares = principal_plane(features)
    text = " and ".join(f"{100 * share:.1f} %" for share in shares)
    planes: list[tuple[str, np.ndarray, np.ndarray, Sequence[str], str]]
    planes = [("pca", plane, labels, names, f"The first two principal components, {text} of the variance.")]
    if tsne:
        some = np.unique(np.linspace(0, len(features) - 1, min(len(features), _MOST_TSNE_POINTS)).astype(np.int64))
        caption = (
            f"t-SNE of {len(some):,} images (van der Maaten and Hinton 2008): nearby points are similar; distances "
            "between clusters and the sizes of clusters are not meaningful."
        )
        planes.append(("tsne", _tsne(features[some]), labels[some], names, caption))
    return planes


def _tsne(features: np.ndarray) -> np.ndarray:
    """`features` (n, F), n >= 2, embedded in a plane, (n, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n, width = features.shape
    if min(n, width) > _TSNE_INPUTS:
        features = PCA(_TSNE_INPUTS, random_state=0).fit_transform(features)
    start = "pca" if min(n, width) >= 2 and np.ptp(features, axis=0).any() else "random"
    points: np.ndarray = TSNE(perplexity=min(30.0, (n - 1) / 3), init=start, random_state=0).fit_transform(features)
    return points


def _configuration(facts: RunRecord) -> list[tuple[str, list[dict[str, Any]]]]:
    sections = []
    for section, options in facts.config.items():
        defaults = facts.defaults[section]
        rows = [
            {"name": name, "value": value, "default": defaults.get(name), "changed": value != defaults.get(name)}
            for name, value in options.items()
        ]
        sections.append((section, rows))
    return sections


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(entry)}" for name, entry in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
