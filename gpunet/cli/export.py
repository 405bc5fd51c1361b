"""``gpunet export``: a trained model as an ONNX file, compared with gpunet on the test images."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from gpunet.cli.compute import existing_run, prepare
from gpunet.cli.console import print_json
from gpunet.cli.parser import Parser, choice, common_options, compute_options, json_option

INPUTS, LAYOUTS = ("uint8", "float32", "scaled"), ("nhwc", "nchw")


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.set_defaults(run=run, json=False, input=None, layout="nhwc", fold=False, data=None, check=True)
    parser.add_argument("path", metavar="RUN_DIR_OR_CHECKPOINT", help="run folder or checkpoint")
    parser.add_argument("out", metavar="FILE.onnx", help="file to write; FILE.onnx.json says what was checked")
    parser.add_argument(
        "--input",
        metavar=f"{{{','.join(INPUTS)}}}",
        type=choice("--input", INPUTS),
        help="uint8: pixels 0..255; float32: values as in the data set; scaled: what the network itself takes "
        "(default: uint8 if the model was trained on such pixels)",
    )
    parser.add_argument(
        "--layout",
        metavar=f"{{{','.join(LAYOUTS)}}}",
        type=choice("--layout", LAYOUTS),
        help="where the channels of the input are (default: nhwc)",
    )
    parser.add_argument("--fold", action="store_true", help="write batch normalisation as a part of the convolutions")
    parser.add_argument("--data", metavar="PATH", help="data set to compare on (default: that of the run)")
    parser.add_argument(
        "--no-check", dest="check", action="store_false", help="do not compare with onnxruntime on the test images"
    )
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Export the model, and print what was checked."""
    path = existing_run(args.path)
    device = prepare(args)
    from gpunet.export import export_onnx

    found = export_onnx(
        path,
        args.out,
        inputs=args.input,
        layout=args.layout,
        fold=args.fold,
        data=args.data,
        check=args.check,
        device=device,
    )
    if args.json:
        print_json({"file": args.out, **asdict(found)})
        return
    print(f"{args.out}: {found.bytes:,} bytes, input {found.input} {found.layout}, opset {found.opset}")
    print(found.note)
