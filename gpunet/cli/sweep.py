"""``gpunet sweep``: train the configurations declared in a file, and compare their validation accuracy."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gpunet.cli.compute import refuse_ranks
from gpunet.cli.console import logger, print_json
from gpunet.cli.parser import Parser, common_options, compute_options, json_option, number
from gpunet.sweep.declaration import Sweep, load_sweep

if TYPE_CHECKING:
    from gpunet.sweep.run import SweepResult
    from gpunet.training.metrics import Metric


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.description = (
        "Run a sweep: train the configurations declared in a TOML file (see scripts/experiments/), and compare their "
        "validation accuracy. The same command resumes an interrupted sweep."
    )
    parser.set_defaults(
        run=run, json=False, out=None, workers=1, where=None, keep_checkpoints=False, retry_failed=False, dry_run=False
    )
    parser.add_argument("file", metavar="FILE", help="TOML file that declares the sweep")
    parser.add_argument("--out", metavar="DIR", help="folder for the results (default: sweeps/ plus the file's name)")
    parser.add_argument(
        "--workers", metavar="N", type=number("--workers", 1, 1024), help="number of parallel trials (default: 1)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--scheduler",
        dest="where",
        metavar="ADDRESS",
        help="train on the Dask cluster of this scheduler (tcp://host:8786)",
    )
    where.add_argument(
        "--cluster",
        dest="where",
        choices=("local", "slurm", "mpi"),
        help="train on a Dask cluster of this machine, on SLURM jobs, on MPI ranks",
    )
    parser.add_argument("--keep-checkpoints", action="store_true", help="keep the weights of all trials")
    parser.add_argument("--retry-failed", action="store_true", help="train failed trials again")
    parser.add_argument("--dry-run", action="store_true", help="list the trials without training")
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Run the sweep, and print the accuracy for each value of each axis."""
    sweep = load_sweep(Path(args.file))
    if args.dry_run:
        _list(sweep)
        return
    if args.where != "mpi":
        refuse_ranks(
            "a sweep shares out its trials itself",
            "start it once, or as mpiexec -n 4 python -m mpi4py.futures -m gpunet sweep ... --cluster mpi",
        )
    from gpunet import __version__
    from gpunet.devices import get_backend

    folder = Path(args.out if args.out is not None else Path("sweeps") / sweep.name)
    device = getattr(args, "device", None)
    logger.info("gpunet %s on %s", __version__, get_backend(device).device)
    from gpunet.sweep.run import run_sweep

    try:
        result = run_sweep(
            sweep,
            folder,
            workers=args.workers,
            threads=getattr(args, "threads", None),
            device=device,
            where=args.where,
            keep_checkpoints=args.keep_checkpoints,
            retry_failed=args.retry_failed,
            progress=args.verbosity >= 0,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished trials are kept; continue with the same command") from None
    _report(result, as_json=args.json)


def _list(sweep: Sweep) -> None:
    from gpunet.sweep.search import FixedSearch, search_of

    search = search_of(sweep)
    if not isinstance(search, FixedSearch):
        print(f"{sweep.options.points} points with {len(sweep.options.seeds)} seeds each, chosen while the sweep runs")
        return
    trials = [trial for point in search.points for trial in sweep.trials(point)]
    for place, trial in enumerate(trials, start=1):
        values = "  ".join(f"{axis}: {value}" for axis, value in trial.point.labels.items())
        what = trial.error or f"{trial.epochs} epochs"
        print(f"{place:>{int(math.log10(len(trials))) + 1}}  {values}  seed {trial.seed}  {what}")


def _report(result: SweepResult, *, as_json: bool) -> None:
    from gpunet.sweep.summary import effects, metric_of, point_score

    failed = sum(not row.outcome.ok for row in result.rows)
    metric = metric_of(result.rows)
    if as_json:
        from gpunet import __version__

        print_json(
            {
                "sweep": result.sweep.name,
                "folder": str(result.folder),
                "table": str(result.table),
                "trials": len(result.rows),
                "failed": failed,
                "best": result.best[0].values if result.best else None,
                f"best_validation_{metric.name}": point_score(result.best) if result.best else None,
                "test": result.test,
                "version": __version__,
            }
        )
        return
    if result.sweep.options.search == "grid":
        for axis in result.sweep.axes:
            print(f"{axis.name}: validation {metric.name}, mean and standard deviation over the seeds")
            width = max(len(choice.label) for choice in axis.choices)
            for effect in effects(result.rows, axis.name):
                mean = "failed" if effect.mean is None else _text(metric, effect.mean)
                std = "" if effect.std is None else f" +- {_text(metric, effect.std, unit=False)}"
                lost = f", {effect.failed} failed" if effect.failed and effect.mean is not None else ""
                print(f"  {effect.value:<{width}}  {mean}{std}  ({effect.seeds} seeds{lost})")
    if result.best:
        values = ", ".join(f"{axis} {value}" for axis, value in result.best[0].values.items())
        print(f"best: {values}: {_text(metric, point_score(result.best))}")
    if result.test is not None and "interval" not in result.test:
        print(f"test {metric.name} of the best point: {_text(metric, result.test['mean'])}")
    elif result.test is not None:
        low, high = result.test["interval"]
        print(
            f"test accuracy of the best point: {100 * result.test['mean']:.2f} % "
            f"(95 % interval {100 * low:.2f}-{100 * high:.2f})"
        )
    if failed:
        print(f"{failed} of {len(result.rows)} trials failed: see the table for the errors")
    print(f"table: {os.fspath(result.table)}")


def _text(metric: Metric, score: float, *, unit: bool = True) -> str:
    if not metric.percent:
        return f"{score:.4g}"
    return f"{100 * score:.2f}{' %' if unit else ''}"
