"""``gpunet features``: probe the features of a trained CNN's layers."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from gpunet.cli.compute import existing_run, prepare
from gpunet.cli.console import print_json
from gpunet.cli.parser import Parser, common_options, compute_options, json_option, number


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = (
        "Compare the features of the layers of a trained CNN or hybrid: the validation accuracy of kNN, logistic "
        "regression, linear SVM and MLP classifiers trained on each layer, and PCA and t-SNE maps."
    )
    parser.set_defaults(run=run, json=False, layers=None, out=None, train_images=6000, map_images=1000)
    parser.add_argument("path", metavar="RUN_DIR", help="run folder of a CNN or a hybrid")
    parser.add_argument("--layers", metavar="NAME", nargs="+", help="layers to compare (default: all blocks)")
    parser.add_argument("--out", metavar="DIR", help="folder for the table and figures (default: the run folder)")
    parser.add_argument(
        "--train-images",
        metavar="N",
        type=number("--train-images", 2, 10**9),
        help="number of training images for the classifiers (default: 6000)",
    )
    parser.add_argument(
        "--map-images",
        metavar="N",
        type=number("--map-images", 2, 10**9),
        help="number of validation images in the maps (default: 1000)",
    )
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the analysis, and print its table."""
    path = existing_run(args.path)
    device = prepare(args)
    from gpunet import __version__
    from gpunet.experiments.features import PROBES, analyse

    out = Path(args.out) if args.out is not None else None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    probes = analyse(
        path,
        layers=args.layers,
        out=out,
        device=device,
        train_images=args.train_images,
        map_images=args.map_images,
    )
    if args.json:
        print_json({"probes": [asdict(probe) for probe in probes], "version": __version__})
        return
    width = max(len(probe.layer) for probe in probes)
    print(
        f"accuracy on {probes[0].validation_images:,} validation images of each classifier on each layer, trained on "
        f"{probes[0].train_images:,} images"
    )
    for layer in dict.fromkeys(probe.layer for probe in probes):
        own = {probe.probe: probe for probe in probes if probe.layer == layer}
        cells = "  ".join(f"{name} {own[name].validation_accuracy:.2%}" for name in PROBES)
        print(f"{layer:<{width}}  {own[PROBES[0]].features:>6} features  {cells}")
