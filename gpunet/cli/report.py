"""``gpunet report``: an HTML report of a run, or a comparison of several."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpunet.cli.compute import existing_run, prepare
from gpunet.cli.console import print_json
from gpunet.cli.parser import Parser, UsageError, choice, common_options, compute_options, json_option

SPLITS = ("validation", "test")


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = (
        "Write a self-contained HTML file: for one run its learning curves, confusion matrix, per-class metrics, "
        "calibration, mistakes, features, filters, timings and configuration; for several runs a table, their learning "
        "curves and McNemar's test for each pair. The test accuracy is the one recorded by the run, unless --split "
        "test is given."
    )
    parser.set_defaults(run=run, json=False, out=None, data=None, split="validation", tsne=False)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folder; give several to compare them")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="file to write (default: report.html in the run folder; for several runs, ./comparison.html)",
    )
    parser.add_argument(
        "--split",
        metavar=f"{{{','.join(SPLITS)}}}",
        type=choice("--split", SPLITS),
        help="split to evaluate (default: validation, so that the test images are evaluated only once, by train)",
    )
    parser.add_argument("--data", metavar="PATH", help="current path of the data set (default: as in training)")
    parser.add_argument("--tsne", action="store_true", help="add a t-SNE map of the features (slow)")
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the page, and print its path."""
    paths = [existing_run(path) for path in args.runs]
    out = None if args.out is None else Path(args.out)
    if len(paths) > 1 and args.tsne:
        raise UsageError("--tsne is only for the report of a single run, but several are given")
    device = prepare(args)
    from gpunet.experiments.report import compare, report

    if len(paths) == 1:
        found = report(paths[0], out=out, split=args.split, data=args.data, device=device, tsne=args.tsne)
    else:
        found = compare(paths, out=out, split=args.split, data=args.data, device=device)
    if not args.json:
        print(f"report: {found.path}")
        return
    from gpunet import __version__

    runs = [
        {"run": path, "accuracy": None if figures is None else figures[0] / figures[1]}
        for path, figures in found.runs.items()
    ]
    scores = {"scores": dict(found.scores)} if found.scores else {}
    print_json({"report": str(found.path), "split": found.split, "runs": runs, **scores, "version": __version__})
