"""``gpunet report``: an HTML page on a run, or on several in comparison."""

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
        "Write one HTML file that needs nothing else: of one run its curves, confusions, classes, calibration, "
        "mistakes, features, filters, times and configuration; of several runs a table, their curves and McNemar's "
        "test of each pair. The test accuracy is the one that the run recorded, unless --split test is given."
    )
    parser.set_defaults(run=run, json=False, out=None, data=None, split="validation", tsne=False)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folder; several are compared")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="where to write (default: report.html in the run folder; of several runs, comparison.html here)",
    )
    parser.add_argument(
        "--split",
        metavar=f"{{{','.join(SPLITS)}}}",
        type=choice("--split", SPLITS),
        help="which images are evaluated (default: validation, so that the test images are looked at once, by train)",
    )
    parser.add_argument("--data", metavar="PATH", help="where the data set is now (default: where it was in training)")
    parser.add_argument("--tsne", action="store_true", help="add a map of the features by t-SNE, which takes a while")
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the page, and print where it is."""
    paths = [existing_run(path) for path in args.runs]
    out = None if args.out is None else Path(args.out)
    if len(paths) > 1 and args.tsne:
        raise UsageError("--tsne belongs to the report of one run, but several are given")
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
    print_json({"report": str(found.path), "split": found.split, "runs": runs, "version": __version__})
