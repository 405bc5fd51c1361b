"""``gpunet predict``: classify image files, or the rows of tables, with a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gpunet.cli.compute import existing_run, latest_run, prepare
from gpunet.cli.console import print_json
from gpunet.cli.parser import Parser, choice, common_options, compute_options, json_option, number
from gpunet.errors import DataError
from gpunet.tasks import CLASSIFICATION, REGRESSION
from gpunet.text import printable

if TYPE_CHECKING:
    from gpunet.experiments.run import Prediction

INVERT = ("auto", "always", "never")


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.set_defaults(run=run, json=False, top=3, invert="auto", run_dir=None)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="image file of any size; for a model of a table, tables (CSV, TSV, Parquet, NPZ)",
    )
    parser.add_argument(
        "--run", dest="run_dir", metavar="RUN_DIR", help="run folder or checkpoint (default: the newest in runs/)"
    )
    parser.add_argument(
        "--top", metavar="K", type=number("--top", 1, 1000), help="number of most probable classes to show (default: 3)"
    )
    parser.add_argument(
        "--invert",
        metavar=f"{{{','.join(INVERT)}}}",
        type=choice("--invert", INVERT),
        help="invert the images, as models are trained on bright objects on black; auto: if the border is bright "
        "(default: auto)",
    )
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Classify the images, after checking that all of them exist."""
    path = existing_run(args.run_dir) if args.run_dir is not None else latest_run()
    images = [Path(image) for image in args.images]
    for image in images:
        if not image.is_file():
            raise DataError(f"cannot read the image {image}: {'not a file' if image.exists() else 'no such file'}")
    device = prepare(args)
    from gpunet.experiments.run import predict

    predictions = predict(path, images, device=device, invert=args.invert)
    if args.json:
        print_json({"predictions": [_as_dict(prediction, args.top) for prediction in predictions]})
        return
    width = max(len(printable(name)) for prediction in predictions for name in prediction.class_names)
    for position, prediction in enumerate(predictions):
        if prediction.row is not None:
            print(f"{printable(prediction.path)} row {prediction.row}: {_in_a_line(prediction, args.top)}")
            continue
        if position:
            print()
        print(printable(prediction.path))
        if prediction.task == REGRESSION:
            for name, value in zip(prediction.class_names, prediction.probabilities, strict=True):
                print(f"  {printable(name):<{width}} {value:.6g}")
            continue
        for name, probability in _top(prediction, args.top):
            print(f"  {printable(name):<{width}} {100 * probability:6.2f} %")


def _in_a_line(prediction: Prediction, count: int) -> str:
    if prediction.task == REGRESSION:
        pairs = zip(prediction.class_names, prediction.probabilities, strict=True)
        return ", ".join(f"{printable(name)} {value:.6g}" for name, value in pairs)
    return ", ".join(f"{printable(name)} {100 * value:.2f} %" for name, value in _top(prediction, count))


def _top(prediction: Prediction, count: int) -> list[tuple[str, float]]:
    """The `count` most probable classes and their probabilities, in descending order."""
    pairs = zip(prediction.class_names, prediction.probabilities, strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])[:count]


def _as_dict(prediction: Prediction, count: int) -> dict[str, object]:
    place: dict[str, object] = {"path": str(prediction.path)}
    if prediction.row is not None:
        place["row"] = prediction.row
    named = dict(zip(prediction.class_names, prediction.probabilities, strict=True))
    if prediction.task == REGRESSION:
        return {**place, "values": named}
    if prediction.task != CLASSIFICATION:
        labels = [name for name, probability in named.items() if probability > 0.5]
        return {**place, "labels": labels, "probabilities": named}
    return {
        **place,
        "label": prediction.label,
        "class": prediction.class_names[prediction.label],
        "top": [{"class": name, "probability": float(probability)} for name, probability in _top(prediction, count)],
    }
