"""``gpunet import``: an ONNX file as a saved model."""

from __future__ import annotations

import argparse
import math
from typing import Any

from gpunet.cli.compute import prepare
from gpunet.cli.console import print_json
from gpunet.cli.parser import Parser, choice, common_options, compute_options, decimal, json_option

LAYOUTS = ("nhwc", "nchw")


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.set_defaults(run=run, json=False, layout=None, value_range=None)
    parser.add_argument("path", metavar="FILE.onnx", help="file of gpunet export, or of the same layers")
    parser.add_argument("out", metavar="OUT", help="file to write, for evaluate and predict")
    parser.add_argument(
        "--layout",
        metavar=f"{{{','.join(LAYOUTS)}}}",
        type=choice("--layout", LAYOUTS),
        help="where the channels of the input are, in a file that is not gpunet's (default: what its first node wants)",
    )
    parser.add_argument(
        "--value-range",
        nargs=2,
        metavar=("LOW", "HIGH"),
        type=decimal("--value-range", -math.inf),
        help="black and white, in a file that is not gpunet's and takes floats, such as 0 1",
    )
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Read the file, and write the model."""
    device = prepare(args)
    from gpunet.experiments.saved import save_model
    from gpunet.export import import_onnx

    found = import_onnx(
        args.path,
        layout=args.layout,
        value_range=None if args.value_range is None else tuple(args.value_range),
        device=device,
    )
    save_model(found, args.out)
    facts: dict[str, Any] = {
        "file": args.out,
        "kind": found.metadata["kind"],
        "parameters": found.model.parameter_count,
        "classes": list(found.class_names),
    }
    if args.json:
        print_json(facts)
        return
    print(f"{args.out}: {facts['kind']} of {facts['parameters']:,} parameters and {len(found.class_names)} classes")
