"""``python -m tests.cuda_double build``, or ``run [--devices N] [arguments of pytest]``."""

from __future__ import annotations

import argparse
import sys

from tests.cuda_double.build import Unavailable, build
from tests.cuda_double.run import run_tests


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda_double", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="make the double, if it is not there yet")
    command = commands.add_parser("run", help="run the tests of a GPU on the double: pytest -m gpu ...")
    command.add_argument("--devices", type=int, default=1, help="how many GPUs there are (1)")
    args, rest = parser.parse_known_args()
    if rest and args.command != "run":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        double = build()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 2
    if args.command == "build":
        print(double.library)
        return 0
    code: int = run_tests(double, rest, devices=args.devices).returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
