"""``gpunet warmup``: compile all kernels of a device ahead of time; cached on disk, they make later starts fast."""

from __future__ import annotations

import argparse
import time

from gpunet.cli.compute import prepare
from gpunet.cli.console import print_json
from gpunet.cli.parser import Parser, common_options, compute_options, json_option


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments to its parser."""
    parser.set_defaults(run=run, json=False)
    json_option(parser)
    compute_options(parser)
    common_options(parser)


def run(args: argparse.Namespace) -> None:
    """Compile with a progress bar on stderr, and print the number of kernels."""
    device = prepare(args)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from gpunet.devices import get_backend
    from gpunet.experiments.warmup import warm_up

    backend = get_backend(device)
    compiled: list[str] = []
    started = time.perf_counter()
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("compiling {task.fields[name]}")
    with Progress(*columns, console=Console(stderr=True, quiet=args.verbosity < 0), transient=True) as bar:
        task = bar.add_task("", total=None, name="")

        def show(name: str, total: int | None) -> None:
            bar.update(task, completed=len(compiled), total=total, name=name)
            compiled.append(name)

        warm_up(backend, show)
    seconds = round(time.perf_counter() - started, 1)
    if args.json:
        print_json({"device": backend.device, "compiled": len(compiled), "seconds": seconds})
    elif compiled:
        print(f"{len(compiled)} kernels compiled for {backend.device} in {seconds} s")
    else:
        print(f"all kernels for {backend.device} were already compiled ({seconds} s)")
