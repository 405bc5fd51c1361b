"""Whole training steps, epochs and inference against PyTorch and scikit-learn, on the CPU.

    python -m bench.race [--cases cnn-train ...] [--rounds 15] [--seconds 1] [--minutes 4.5] [--json FILE] [--save]

Every contestant runs in a separate process with the same number of threads. After a warm-up they take turns: in
each round, each works for some seconds while the others sleep, and the ratio of two contestants is that of their rates
in the same round. Reported are the median, lowest and highest ratio over the rounds.

Rounds are spent where they decide something. A configuration of a library retires after the first rounds if another one
of the same library was faster in each of them: see :func:`retires`. A case ends when the medians of the others are
known well enough: see :func:`is_known`; at the latest after ``--rounds``, or when its share of ``--minutes`` is over.
See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import results as result_files
from bench.machine import MALLOC, available_cores, pinned
from bench.racers import CASES, contestants

FIRST_ROUNDS = 4
"""Those of all contestants."""
LEAD = 0.05
"""By how much a configuration must have been faster in the median, for another one of its library to retire."""
FEWEST_ROUNDS = 6
"""Of fewer, no two bound the median with a confidence of 95 %."""
WIDTH = 0.06
"""Of the interval of a median that is known well enough, as a share of its lower end."""

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
    rounds: int
    """Those that the peer took part in; all numbers are of these."""


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
        """Have it warm up, and wait for the end of that; False if the contestant failed."""
        assert self._process.stdin and self._process.stdout
        if self._process.stdout.readline().strip() != "made":
            return False
        print("warm", file=self._process.stdin, flush=True)
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


def median_interval(numbers: Sequence[float]) -> tuple[float, float]:
    """The narrowest two of `numbers`, equally far from the ends, that bound their median with a confidence of 95 %.

    Whatever their distribution: each is above its median with probability 1/2 (the sign test). Without bounds, if there
    are too few.
    """
    ordered, n = sorted(numbers), len(numbers)
    outside, found = 0.0, (-math.inf, math.inf)
    for rank in range(n // 2):
        outside += 2 * math.comb(n, rank) / 2**n
        if outside > 0.05:
            break
        found = ordered[rank], ordered[n - 1 - rank]
    return found


def is_known(ratios: Sequence[float]) -> bool:
    """Whether the interval of their median is narrower than WIDTH."""
    low, high = median_interval(ratios)
    return low > 0 and high <= (1 + WIDTH) * low


def retires(name: str, rates: Mapping[str, Sequence[float]]) -> bool:
    """Whether a configuration of the same library was faster in each round, and by LEAD in the median."""
    for other, theirs in rates.items():
        if other != name and other.split()[0] == name.split()[0]:
            leads = [their / own for their, own in zip(theirs, rates[name], strict=True)]
            if min(leads) > 1 and statistics.median(leads) > 1 + LEAD:
                return True
    return False


def compare(
    case: str, batch: int, *, rounds: int, seconds: float, threads: int, until: float = math.inf
) -> list[Result]:
    """Race all contestants of a case; one result per peer, fastest first.

    Args:
        until: the time, of ``time.monotonic()``, after which no round starts but for the first FEWEST_ROUNDS.
    """
    started = [Racer(name, case, batch, threads) for name in contestants(case)]  # imports need one core each
    running = []
    try:
        for racer in started:  # one at a time: their threads would wait for each other's
            if racer.ready():
                running.append(racer)
            else:
                reason = (racer.stop().strip().splitlines() or ["no reason given"])[-1]
                print(f"{racer.name} does not take part in {case}: {reason}", file=sys.stderr)
        rates: dict[str, list[float]] = {racer.name: [] for racer in running}
        for number in range(rounds):
            turn = number % len(running)
            for racer in running[turn:] + running[:turn]:
                rates[racer.name].append(racer.race(seconds))
            if number + 1 == FIRST_ROUNDS:
                beaten = {racer.name for racer in running if retires(racer.name, rates)}
                running = [racer for racer in running if racer.name not in beaten]
            if number + 1 >= FEWEST_ROUNDS and (time.monotonic() > until or _all_known(running, rates)):
                break
    finally:
        for racer in started:
            racer.stop()
    ours = rates.pop("gpunet")
    results = [_result(case, batch, name, ours, theirs) for name, theirs in rates.items()]
    return sorted(results, key=lambda result: result.ratio)


def _all_known(running: Sequence[Racer], rates: Mapping[str, Sequence[float]]) -> bool:
    return all(is_known(_ratios(rates["gpunet"], rates[racer.name])) for racer in running if racer.name != "gpunet")


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of the rounds that a peer took part in."""
    return [mine / other for mine, other in zip(ours, theirs, strict=False)]


def _result(case: str, batch: int, peer: str, ours: Sequence[float], theirs: Sequence[float]) -> Result:
    ratios, rounds = _ratios(ours, theirs), len(theirs)
    rates = statistics.median(ours[:rounds]), statistics.median(theirs)
    numbers = statistics.median(ratios), min(ratios), max(ratios), *rates
    return Result(case, batch, peer, *(float(f"{number:.4g}") for number in numbers), rounds)


def table(results: Sequence[Result]) -> str:
    lines = [
        "| case | batch | peer | ratio | lowest to highest | gpunet images/s | peer images/s | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.case} | {r.batch} | {r.peer} | {r.ratio:.2f} | {r.low:.2f} to {r.high:.2f} "
        f"| {r.ours_per_s:,.0f} | {r.peer_per_s:,.0f} | {r.rounds} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.race")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=15, help="of each case, at most")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument(
        "--minutes", type=float, default=4.5, help="for everything; each case still has its first rounds"
    )
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path, help="write the results to this file, as a list of objects")
    result_files.save_option(parser)
    args = parser.parse_args()
    results: list[Result] = []
    races = [(case, batch) for case in args.cases for batch in BATCHES[case]]
    end = time.monotonic() + 60 * args.minutes
    for number, (case, batch) in enumerate(races):
        now = time.monotonic()
        until = now + (end - now) / (len(races) - number)
        found = compare(case, batch, rounds=args.rounds, seconds=args.seconds, threads=args.threads, until=until)
        print(table(found) if not results else "\n".join(table(found).splitlines()[2:]), flush=True)
        results += found
        if args.json:
            args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    if args.save:
        found = result_files.report("race", [asdict(result) for result in results], threads=args.threads)
        print(f"written: {result_files.save(found, table(results), args.save)}")


if __name__ == "__main__":
    main()
