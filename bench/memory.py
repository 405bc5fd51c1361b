"""Peak resident memory of training, one process per contestant.

    python -m bench.memory [--case cnn-train] [--batch 512] [--steps 16] [--json FILE] [--save]

Reported are the peak after some training steps and, for comparison, the peak before the first step, with the libraries
loaded and model and images created. An earlier process, which is not counted, fills the cache of compiled kernels.
Malloc is left as each library configures it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import racers, results
from bench.machine import ROOT, available_cores, pinned
from bench.table import markdown
from gpunet.machine import peak_memory

CASES = ("cnn-train", "mlp-train")
BATCH, STEPS = 512, 16


@dataclass(frozen=True)
class Memory:
    """Resident memory of a contestant's process, in MB (10^6 bytes)."""

    case: str
    batch: int
    contestant: str
    peak_mb: float
    before_mb: float
    """The peak before the first step."""
    steps: int


def measure(contestant: str, case: str, batch: int, steps: int, threads: int) -> Memory:
    """Train in a separate process.

    Raises:
        ChildProcessError: the process failed; the message is the last line of its output.
    """
    command = [sys.executable, "-m", "bench.memory", "--child", contestant, case, str(batch), str(steps)]
    done = subprocess.run(command, cwd=ROOT, env=pinned(threads), capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode != 0 or not last.startswith("{"):
        raise ChildProcessError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return Memory(case, batch, contestant, **json.loads(last))


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    return round((peak_memory() or 0) / 1e6, 1)


def child(contestant: str, case: str, batch: int, steps: int) -> None:
    turn = racers.make(contestant, case, batch, count=8 * batch)
    before, done = peak_mb(), 0
    while done < steps:
        done += turn() // batch
    print(json.dumps({"peak_mb": peak_mb(), "before_mb": before, "steps": done}), flush=True)


def table(found: Sequence[Memory]) -> str:
    header = ["case", "batch", "contestant", "peak MB", "before the first step", "steps"]
    lines = [
        [one.case, str(one.batch), one.contestant, f"{one.peak_mb:,.0f}", f"{one.before_mb:,.0f}", str(one.steps)]
        for one in found
    ]
    return markdown(header, lines, left=3)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory")
    parser.add_argument("--case", choices=CASES, default=CASES[0])
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--contestants", nargs="*", help="default: gpunet and all configurations of PyTorch")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path, help="write the results to this file, as a list of objects")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    results.save_option(parser)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]), int(args.child[3]))
        return
    found: list[Memory] = []
    for contestant in args.contestants or ["gpunet", *racers.TORCH]:
        try:
            measure(contestant, args.case, args.batch, 1, args.threads)  # fills the kernel cache
            found.append(measure(contestant, args.case, args.batch, args.steps, args.threads))
        except ChildProcessError as error:
            print(f"{contestant} does not take part: {error}", file=sys.stderr)
    results.finish("memory", [asdict(one) for one in found], table(found), args)


if __name__ == "__main__":
    main()
