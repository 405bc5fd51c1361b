"""``python -m tests.cuda_double build``, ``run [--devices N] [--fma] [--ftz] [pytest's options]``, or ``all [...]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cuda_double.build import Double, Unavailable, build
from tests.cuda_double.run import run_tests


def run_all(double: Double, args: Sequence[str]) -> int:
    """All tests in two processes at a time, which share no compiled kernels; 0 if all runs passed."""
    with_variants = {"devices": 2, "fma": _multiplies_and_adds(), "ftz": True}
    if not with_variants["fma"]:
        print("left out: --fma, for this CPU has no fused multiply-add", file=sys.stderr)

    def finish(options: dict[str, int]) -> int:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = run_tests(double, ["-q", "-p", "no:cacheprovider", *args], **options, **output)
        print(f"== pytest -m gpu on the CUDA double, {options} ==\n{done.stdout}", flush=True)
        return done.returncode

    with ThreadPoolExecutor() as pool:
        variants = pool.submit(finish, with_variants)
        codes = [finish({"devices": 1}), finish({"devices": 2}), variants.result()]
    return int(any(codes))


def _multiplies_and_adds() -> bool:
    return " fma " in Path("/proc/cpuinfo").read_text()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda_double", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="make the double, if it is not there yet")
    command = commands.add_parser("run", help="run the tests of a GPU on the double: pytest -m gpu ...")
    command.add_argument("--devices", type=int, default=1, help="how many GPUs there are (1)")
    command.add_argument("--fma", action="store_true", help="products and sums are contracted, as nvcc does")
    command.add_argument("--ftz", action="store_true", help="denormal numbers are zeros, as CuPy has NVRTC compile")
    commands.add_parser("all", help="with one GPU, with two, and with two and both variants; left out if need be")
    args, rest = parser.parse_known_args()
    if rest and args.command == "build":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        double = build()
    except Unavailable as error:
        print(error if args.command != "all" else f"left out: {error}", file=sys.stderr)
        return 2 if args.command != "all" else 0
    if args.command == "build":
        print(double.library)
        return 0
    if args.command == "all":
        return run_all(double, rest)
    return run_tests(double, rest, devices=args.devices, fma=args.fma, ftz=args.ftz).returncode


if __name__ == "__main__":
    sys.exit(main())
