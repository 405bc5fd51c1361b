"""Time from the start of a process to the end of its first training step.

    python -m bench.start_up [--cases cnn-train mlp-train] [--rounds 5] [--cold-rounds 2] [--json FILE] [--save]

Measured with a cold kernel cache (``NUMBA_CACHE_DIR`` and ``TORCHINDUCTOR_CACHE_DIR`` in a fresh folder) and with a
warm one. An uncounted first run fills the warm cache and brings the libraries' files into the page cache, so that cold
and warm differ only in compilation. Reported are the median, lowest and highest.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import results
from bench.machine import ROOT, available_cores, pinned
from bench.table import markdown

CASES = ("cnn-train", "mlp-train")
CONTESTANTS = ("gpunet", "pytorch eager NHWC", "pytorch compile NHWC")
BATCH = 128
CACHES = ("cold", "warm")
COMPILES = ("gpunet", "pytorch compile NHWC")
"""Contestants with a kernel cache; for the others, every start is the same."""


@dataclass(frozen=True)
class StartUp:
    """Seconds to the end of the first step."""

    case: str
    batch: int
    contestant: str
    cache: str
    """``cold``, ``warm``, or empty for a contestant without a cache."""
    seconds: float
    low: float
    high: float
    runs: int


def first_step(contestant: str, case: str, batch: int, cache: Path, threads: int) -> float:
    """Seconds from the start of a process to the end of its first step.

    Raises:
        ChildProcessError: it failed; the message is the last line of its output.
    """
    caches = {"NUMBA_CACHE_DIR": str(cache / "numba"), "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor")}
    command = [sys.executable, "-m", "bench.racers", contestant, case, str(batch), "first"]
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**pinned(threads), **caches},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        done = next((line for line in process.stdout if line.strip() == "done"), None)
        seconds = time.perf_counter() - started
        _, errors = process.communicate()
    if done is None:
        raise ChildProcessError((errors.strip().splitlines() or ["no reason given"])[-1])
    return seconds


def measure(contestant: str, case: str, batch: int, *, rounds: int, cold_rounds: int, threads: int) -> list[StartUp]:
    """The start-up times of one contestant, cold before warm."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as warm:
        first_step(contestant, case, batch, Path(warm), threads)
        if contestant in COMPILES:
            for _ in range(cold_rounds):
                with tempfile.TemporaryDirectory() as cold:
                    times.setdefault("cold", []).append(first_step(contestant, case, batch, Path(cold), threads))
        name = "warm" if contestant in COMPILES else ""
        times[name] = [first_step(contestant, case, batch, Path(warm), threads) for _ in range(rounds)]
    return [
        StartUp(case, batch, contestant, cache, *(round(f(took), 2) for f in (statistics.median, min, max)), len(took))
        for cache, took in times.items()
    ]


def table(found: Sequence[StartUp]) -> str:
    header = ["case", "batch", "contestant", "kernel cache", "seconds", "lowest to highest", "runs"]
    lines = [
        [
            one.case, str(one.batch), one.contestant, one.cache or "none", f"{one.seconds:.2f}",
            f"{one.low:.2f} to {one.high:.2f}", str(one.runs),
        ]
        for one in found
    ]  # fmt: skip
    return markdown(header, lines, left=4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.start_up")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--contestants", nargs="*", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=5, help="number of starts with a warm cache")
    parser.add_argument("--cold-rounds", type=int, default=2, help="number of starts with a cold cache")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path, help="write the results to this file, as a list of objects")
    results.save_option(parser)
    args = parser.parse_args(argv)
    found: list[StartUp] = []
    for case in args.cases:
        for contestant in args.contestants:
            try:
                found += measure(
                    contestant, case, BATCH, rounds=args.rounds, cold_rounds=args.cold_rounds, threads=args.threads
                )
            except ChildProcessError as error:
                print(f"{contestant} does not take part in {case}: {error}", file=sys.stderr)
    results.finish("start-up", [asdict(one) for one in found], table(found), args)


if __name__ == "__main__":
    main()
