"""Whole training steps, epochs and inference against PyTorch and scikit-learn, on the CPU.

    python -m bench.race [--cases cnn-train ...] [--rounds 15] [--seconds 1] [--json FILE] [--save]

Every contestant runs in a separate process with the same number of threads. After a warm-up they take turns: in
each round, each works for some seconds while the others sleep, and the ratio of two contestants is that of their rates
in the same round. Reported are the median, lowest and highest ratio over the rounds. See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import results as result_files
from bench.machine import MALLOC, available_cores, pinned
from bench.racers import CASES, contestants

BATCHES = {"cnn-train": (128, 512), "cnn-infer": (1, 1000), "mlp-train": (128,)}


@dataclass(frozen=True)
class Result:
    """One peer in one case; the ratio is above 1 where gpunet is faster."""

    case: str
    batch: int
    peer: str
    ratio: float
    low: float
    high: float
    ours_per_s: float
    peer_per_s: float


class Racer:
    """A contestant's process."""

    def __init__(self, contestant: str, case: str, batch: int, threads: int) -> None:
        self.name = contestant
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.racers", contestant, case, str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("RACE_DEBUG") else None,
            text=True,
            env={**pinned(threads), **MALLOC},
        )

    def ready(self) -> bool:
        """Wait for the end of the warm-up; False if the contestant failed."""
        assert self._process.stdout
        return self._process.stdout.readline().strip() == "ready"

    def race(self, seconds: float) -> float:
        """Images per second in one turn."""
        assert self._process.stdin and self._process.stdout
        print(f"go {seconds}", file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def stop(self) -> str:
        """Kill the process and return what it wrote to stderr."""
        self._process.kill()
        _, errors = self._process.communicate()
        return errors or ""


def compare(case: str, batch: int, *, rounds: int, seconds: float, threads: int) -> list[Result]:
    """Race all contestants of a case; one result per peer, fastest first."""
    racers = []
    for name in contestants(case):  # one at a time, so that warm-ups do not interfere
        racer = Racer(name, case, batch, threads)
        if racer.ready():
            racers.append(racer)
        else:
            reason = (racer.stop().strip().splitlines() or ["no reason given"])[-1]
            print(f"{name} does not take part in {case}: {reason}", file=sys.stderr)
    rates: dict[str, list[float]] = {racer.name: [] for racer in racers}
    try:
        for number in range(rounds):
            turn = number % len(racers)
            for racer in racers[turn:] + racers[:turn]:
                rates[racer.name].append(racer.race(seconds))
    finally:
        for racer in racers:
            racer.stop()
    ours = rates.pop("gpunet")
    results = [_result(case, batch, name, ours, theirs) for name, theirs in rates.items()]
    return sorted(results, key=lambda result: result.ratio)


def _result(case: str, batch: int, peer: str, ours: Sequence[float], theirs: Sequence[float]) -> Result:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    numbers = statistics.median(ratios), min(ratios), max(ratios), statistics.median(ours), statistics.median(theirs)
    return Result(case, batch, peer, *(float(f"{number:.4g}") for number in numbers))


def table(results: Sequence[Result]) -> str:
    lines = [
        "| case | batch | peer | ratio | lowest to highest | gpunet images/s | peer images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.case} | {r.batch} | {r.peer} | {r.ratio:.2f} | {r.low:.2f} to {r.high:.2f} "
        f"| {r.ours_per_s:,.0f} | {r.peer_per_s:,.0f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.race")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path, help="write the results to this file, as a list of objects")
    result_files.save_option(parser)
    args = parser.parse_args()
    results: list[Result] = []
    for case in args.cases:
        for batch in BATCHES[case]:
            found = compare(case, batch, rounds=args.rounds, seconds=args.seconds, threads=args.threads)
            print(table(found) if not results else "\n".join(table(found).splitlines()[2:]), flush=True)
            results += found
            if args.json:
                args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    if args.save:
        found = result_files.report("race", [asdict(result) for result in results], threads=args.threads)
        print(f"written: {result_files.save(found, table(results), args.save)}")


if __name__ == "__main__":
    main()
