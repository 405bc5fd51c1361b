"""Data parallel training on this machine: ranks with one thread each beside one process with as many threads.

``python -m bench.parallel`` prints a JSON object: for each number of ranks, the median time of a step in interleaved
rounds, and the efficiency: the time of one process with N threads divided by that of N ranks with one thread each.
Both take the step in the same shards, and so have the same weights. ``one_shard`` is the process that need not share.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args)
    else:
        print(json.dumps(compare(args), indent=2))


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds of each way, every one a process of its own."""
    ways = {
        "ranks": (args.ranks, 1, args.shards),
        "threads": (1, args.ranks, args.shards),
        "one_shard": (1, args.ranks, 1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, (ranks, threads, shards) in ways.items():
            seconds[name].append(start(args, ranks, threads, shards)["seconds"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ranks": args.ranks,
        "batch_size": args.batch_size,
        "shards": args.shards,
        "milliseconds": {name: round(1000 * value, 1) for name, value in medians.items()},
        "rounds": {name: [round(1000 * value, 1) for value in values] for name, values in seconds.items()},
        "efficiency": round(medians["threads"] / medians["ranks"], 3),
        "efficiency_against_one_shard": round(medians["one_shard"] / medians["ranks"], 3),
    }


def start(args: argparse.Namespace, ranks: int, threads: int, shards: int) -> dict[str, Any]:
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    mpiexec = shutil.which("mpiexec", path=search)
    if mpiexec is None:
        raise SystemExit("there is no mpiexec: pip install -e '.[mpi]'")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GPUNET_DEVICE": "cpu", "NUMBA_NUM_THREADS": str(threads)}
    words = ["--measure", "--batch-size", args.batch_size, "--shards", shards, "--steps", args.steps]
    command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "bench.parallel", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(args: argparse.Namespace) -> None:
    """Steps of the default CNN on made images; rank 0 prints the median time of one."""
    import numpy as np

    from gpunet.data.loader import Loader
    from gpunet.models import CNN
    from gpunet.parallel import world
    from gpunet.training import Trainer, TrainingConfig

    ranks, size = world(), args.batch_size * (WARM_UP + args.steps)
    rng = np.random.default_rng(0)
    data = Loader(rng.integers(0, 256, (size, 28, 28, 1), dtype=np.uint8), rng.integers(0, 10, size), shift=2)
    few = Loader(np.zeros((8, 28, 28, 1), np.uint8), np.zeros(8, np.int64))
    config = TrainingConfig(batch_size=args.batch_size, epochs=1, shards=args.shards)
    trainer = Trainer(CNN((28, 28, 1), 10).initialize(), config, train=data, validation=few, communicator=ranks)
    data.shuffle(0, 0)
    trainer._state.start_epoch(0, [1e-3] * (WARM_UP + args.steps))
    seconds = times(trainer, WARM_UP + args.steps)[WARM_UP:]
    if ranks.rank == 0:
        print(json.dumps({"seconds": statistics.median(seconds)}))


def times(trainer: Any, steps: int) -> Sequence[float]:
    found = []
    for _ in range(steps):
        began = time.perf_counter()
        trainer._step_once()
        found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main()
