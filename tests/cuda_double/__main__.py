"""``python -m tests.cuda_double`` build, run [--devices N] [--fma] [--ftz] [pytest's options], gpu-check, or all."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cuda_double.build import Double, Unavailable, build
from tests.cuda_double.run import environment, run, run_tests
from tests.offered import ALONE, hook


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
    codes.append(rehearse(double, ["--only", "doctor", "compile all", "training", "timings", "memcheck"]))
    return int(any(codes))


def rehearse(double: Double, args: Sequence[str]) -> int:
    """``scripts/gpu_check.sh`` on next to no data, in processes that see what a plain machine with a GPU offers."""
    with tempfile.TemporaryDirectory() as name:
        # CuPy needs cuda.pathfinder, which is a part of it, and NVRTC, which the machine's CUDA has
        text = hook(also=("cuda.bindings",), but=("cuda", "nvidia"))
        (Path(name) / "sitecustomize.py").write_text(f"{text}\nfrom tests.cuda_double.start import start\nstart()\n")
        path = os.pathsep.join([name, environment(double)["PYTHONPATH"]])
        variables = {**ALONE, "PYTHONPATH": path, "PYTHON": sys.executable}
        command = ["-m", "bench.gpu_check", "--quick", "--rehearse", "--out", name, *args]
        return run(double, command, env=variables).returncode


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
    commands.add_parser("gpu-check", help="scripts/gpu_check.sh, with what a plain GPU machine offers")
    commands.add_parser("all", help="with one GPU, with two, with two and both variants, and gpu-check; or left out")
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
    if args.command == "gpu-check":
        return rehearse(double, rest)
    if args.command == "all":
        return run_all(double, rest)
    return run_tests(double, rest, devices=args.devices, fma=args.fma, ftz=args.ftz).returncode


if __name__ == "__main__":
    sys.exit(main())
