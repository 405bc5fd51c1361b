"""``gpunet evaluate``: loss and accuracy of a trained model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gpunet.cli.compute import existing_run, prepare
from gpunet.cli.console import accuracy_line, print_json, scores_line
from gpunet.cli.parser import Parser, choice, common_options, compute_options, json_option
from gpunet.errors import ConfigError
from gpunet.tasks import CLASSIFICATION

if TYPE_CHECKING:
    from gpunet.experiments.run import EvaluationResult

MOST_SHOWN = 100
"""Classes up to which the result shows each."""

SPLITS = ("test", "validation", "train")


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.set_defaults(run=run, json=False, figures=False, tta=False, data=None, split="test")
    parser.add_argument("path", metavar="RUN_DIR_OR_CHECKPOINT", help="run folder or checkpoint")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="data set (default: the one the model was trained on); its classes must have the same names and order, or "
        "no names",
    )
    parser.add_argument(
        "--split",
        metavar=f"{{{','.join(SPLITS)}}}",
        type=choice("--split", SPLITS),
        help="split to evaluate (default: test)",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="also evaluate with test-time augmentation: probabilities averaged over each image and its mirror image",
    )
    parser.add_argument("--figures", action="store_true", help="save figures to the run folder")
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def _table_of_classes(found: EvaluationResult) -> str:
    import numpy as np

    from gpunet.report.class_report import classification_report

    matrix = np.asarray(found.confusion)
    labels, predictions = np.argwhere(matrix).repeat(matrix[matrix > 0], axis=0).T  # of each image
    try:
        return str(classification_report(labels, predictions, found.class_names))
    except ConfigError as error:  # a class has the name of a total
        return f"no table of the classes: {error}"


def run(args: argparse.Namespace) -> None:
    """Evaluate the model, and print its loss and accuracy."""
    path = existing_run(args.path)
    device = prepare(args)
    from gpunet.experiments.run import evaluate

    found = evaluate(path, data=args.data, split=args.split, device=device, figures=args.figures, tta=args.tta)
    if not args.json:
        print(f"{found.split} loss {found.loss:.4f}")
        if found.task == CLASSIFICATION:
            print(accuracy_line(found.split, found.correct, found.total))
        if found.scores:
            print(scores_line(found.split, found.scores))
        if found.task == CLASSIFICATION and len(found.class_names) <= MOST_SHOWN:
            print(f"\n{_table_of_classes(found)}")
        if found.tta_correct is not None:
            print("with mirror images: " + accuracy_line(found.split, found.tta_correct, found.total))
        return
    from gpunet import __version__

    if found.task != CLASSIFICATION:
        about = {"run": str(path), "split": found.split, "task": found.task, "total": found.total, "loss": found.loss}
        names = list(found.class_names)
        print_json({**about, "scores": dict(found.scores), "class_names": names, "version": __version__})
        return
    from gpunet.report.metrics import wilson_interval

    print_json(
        {
            "run": str(path),
            "split": found.split,
            "accuracy": found.correct / found.total,
            "interval": wilson_interval(found.correct, found.total),
            "loss": found.loss,
            "correct": found.correct,
            "total": found.total,
            "tta_accuracy": None if found.tta_correct is None else found.tta_correct / found.total,
            "class_names": list(found.class_names),
            "confusion": found.confusion,
            "version": __version__,
        }
    )
