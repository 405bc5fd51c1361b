"""``gpunet gallery``: tables, figures and conclusions of all declared sweeps."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpunet.cli.compute import existing_run
from gpunet.cli.console import logger, print_json
from gpunet.cli.parser import Parser, common_options, json_option


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = (
        "Draw the figures of all declared sweeps that have been run, and write what they say in plain words. Tables "
        "that are in the folder of the results already need no sweep to be run again."
    )
    parser.set_defaults(
        run=run, json=False, declared="scripts/experiments", sweeps="sweeps", out="docs/results", hybrid=None
    )
    parser.add_argument("--declared", metavar="DIR", help="declared sweeps (default: scripts/experiments)")
    parser.add_argument("--sweeps", metavar="DIR", help="folders of the sweeps that were run (default: sweeps)")
    parser.add_argument("--out", metavar="DIR", help="where the results go (default: docs/results)")
    parser.add_argument(
        "--hybrid", metavar="RUN_DIR", help="finished run of a hybrid, whose confusion matrix and metrics are shown"
    )
    json_option(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Write the gallery, and print what there is."""
    hybrid = existing_run(args.hybrid) if args.hybrid is not None else None
    from gpunet.experiments.gallery import make_gallery

    gallery = make_gallery(Path(args.declared), Path(args.sweeps), Path(args.out), hybrid=hybrid)
    for name in gallery.missing:
        logger.warning("the sweep %s has not been run: gpunet sweep %s/%s.toml", name, args.declared, name)
    if args.json:
        sweeps = [sweep.name for sweep, _ in gallery.sweeps]
        print_json({"sweeps": sweeps, "missing": gallery.missing, "written": [str(path) for path in gallery.written]})
        return
    for path in gallery.written:
        print(path)
