"""Runs all op benchmarks, prints one table, and writes a dated result.

    python -m bench.suite [--batch 128] [--threads N] [--select EXPRESSION] [--results FOLDER]

pytest-benchmark runs in a separate process, with the same number of threads for every library.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import results, table
from bench.machine import MALLOC, ROOT, SPIN, available_cores, pinned
from gpunet.errors import DataError

BATCH = 128
FIELDS = (
    "op", "shape", "direction", "batch", "implementation", "device", "ms", "gflop_per_s", "gbyte_per_s",
    "roofline_share", "bound", "ratio", "low", "high",
)  # fmt: skip
LIMITS = ("--benchmark-max-time=0.2", "--benchmark-min-rounds=5", "--benchmark-disable-gc", "--benchmark-warmup=off")
"""Limits of one benchmark. No warm-up is needed: each has already run once, for the check."""


def run(batch: int = BATCH, threads: int | None = None, select: str = "", limits: Sequence[str] = LIMITS) -> Any:
    """Run the benchmarks; returns the contents of a result file.

    Raises:
        DataError: no benchmark was run, or one failed; its output has been shown.
    """
    threads = threads or available_cores()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "benchmarks.json"
        command = [
            sys.executable, "-m", "pytest", "bench", "-q", "-p", "no:cacheprovider",
                "-W", "default:Not saving anything", "--benchmark-enable",
            "--benchmark-only", "--benchmark-quiet", f"--benchmark-json={raw}", f"--bench-batch={batch}", *limits,
        ]  # fmt: skip
        command += ["-k", select] if select else []
        done = subprocess.run(command, cwd=ROOT, env={**SPIN, **pinned(threads), **MALLOC}, check=False)
        if done.returncode != 0 or not raw.exists():
            raise DataError(f"the benchmarks ended with exit code {done.returncode}; nothing was written")
        found = json.loads(raw.read_text(encoding="utf-8"))["benchmarks"]
    return results.report("bench", list(map(_result, found)), threads=threads, roofline=_rooflines(found))


def _result(benchmark: dict[str, Any]) -> dict[str, Any]:
    info = benchmark["extra_info"]
    result = {name: _short(info[name]) for name in FIELDS if name in info}
    return {**result, "rounds": benchmark["stats"]["rounds"]}


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _rooflines(benchmarks: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    infos = [benchmark["extra_info"] for benchmark in benchmarks]
    return {info["device"]: {name: _short(rate) for name, rate in info["peak"].items()} for info in infos}


def arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--batch", type=int, default=BATCH, help="batch size (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of every library (default: all cores)")
    parser.add_argument("--select", default="", metavar="EXPRESSION", help="as pytest -k, such as conv2d")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(argparse.ArgumentParser(prog="python -m bench.suite"))
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="output folder")
    args = parser.parse_args(argv)
    found = run(args.batch, args.threads, args.select)
    shown = table.ops(found["results"])
    print(f"\n{shown}\n")
    path = results.save(found, shown, args.results)
    print(f"written: {path} and {path.with_suffix('.md').name}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
