"""Full training of the CNN with each convolution algorithm on the CPU: do their rounding errors matter?

    python -m bench.conv_training [--epochs 4] [--seeds 3] [--algorithms default ...] [--json FILE] [--save]

The algorithms differ only in rounding errors, of which Winograd's are the largest (gpunet/ops/conv2d/cpu/winograd.py).
Training amplifies such differences until two runs differ as much as two seeds. So each algorithm is run with the same
few seeds, and the question is whether the means differ by more than the seeds do. Accuracies are validation accuracies
of the last epoch; the test images are not used. `default` is gpunet's choice by shape, with Winograd
or the FFT wherever it saves time.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numba

from bench import results
from bench.machine import available_cores
from bench.table import markdown
from gpunet.experiments.config import merge
from gpunet.experiments.prepare import RunData, prepare
from gpunet.experiments.run import fit
from gpunet.ops.conv2d import cpu
from gpunet.ops.geometry import Conv2dGeometry

ALGORITHMS = ("default", "sums", "gemm")


@dataclass(frozen=True)
class Training:
    """One training run; accuracy is the validation accuracy, as a fraction."""

    algorithm: str
    seed: int
    epochs: int
    accuracy: float
    loss: float
    """Mean training loss of the last epoch."""
    seconds: float


@contextlib.contextmanager
def forced(algorithm: str) -> Iterator[None]:
    """Make CPU convolutions use `algorithm`: ``sums`` is the default without transforms, ``gemm`` is all BLAS."""
    if algorithm == "default":
        yield
    elif algorithm == "sums":
        with patch.object(cpu, "_transformed", lambda g: None):
            yield
    elif algorithm == "gemm":

        def choose(direction: str, g: Conv2dGeometry) -> str:
            return "tap_gemm"

        with patch.object(cpu, "_choose", choose):
            yield
    else:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")


def train(algorithm: str, seed: int, epochs: int, data: RunData | None = None) -> Training:
    """Train the CNN of the quick preset, keeping the weights of the last epoch."""
    config = merge(kind="cnn", preset="quick", overrides={"epochs": epochs, "seed": seed, "keep": "last"})
    with forced(algorithm), tempfile.TemporaryDirectory() as folder:
        found = fit(config, run_dir=Path(folder), device="cpu", data=data or prepare(config.data))
    last = found.records[-1]
    seconds = sum(record["seconds"] for record in found.records)
    return Training(algorithm, seed, epochs, last["validation_accuracy"], last["train_loss"], round(seconds, 1))


def table(found: Sequence[Training]) -> str:
    lines = []
    for algorithm in dict.fromkeys(one.algorithm for one in found):
        runs = [one for one in found if one.algorithm == algorithm]
        shares = [100 * one.accuracy for one in runs]
        spread = f"{statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
        lines.append(
            [
                algorithm,
                str(len(runs)),
                str(runs[0].epochs),
                f"{statistics.mean(shares):.2f}",
                spread,
                " ".join(f"{share:.2f}" for share in shares),
                f"{statistics.mean(one.loss for one in runs):.4f}",
                f"{statistics.median(one.seconds for one in runs):.0f}",
            ]
        )
    header = ["algorithm", "seeds", "epochs", "mean %", "std", "each", "training loss", "seconds"]
    return markdown(header, lines, left=1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.conv_training")
    parser.add_argument("--algorithms", nargs="*", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path, help="write the results to this file, as a list of objects")
    results.save_option(parser)
    args = parser.parse_args(argv)
    numba.set_num_threads(args.threads)
    found: list[Training] = []
    for seed in range(args.seeds):  # seed by seed, so that an interrupted run leaves the algorithms comparable
        for algorithm in args.algorithms:
            found.append(train(algorithm, seed, args.epochs))
            print(found[-1], file=sys.stderr, flush=True)
    results.finish("conv-training", [asdict(one) for one in found], table(found), args)


if __name__ == "__main__":
    main()
