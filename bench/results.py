"""Result files: a dated JSON file and a Markdown page of the same name in ``bench/results/``.

The JSON holds kind, date (UTC), machine, versions, commit and ``results``, a list of objects. Kinds are ``bench``
(ops), ``race`` (whole steps), ``start-up``, ``memory``, ``conv-training``, ``own-data`` and ``gpu-check``.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from gpunet.errors import DataError
from gpunet.files import write_text_atomic

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "bench": "Ops",
    "race": "Whole steps",
    "start-up": "From start to the end of the first training step",
    "memory": "Peak memory of training",
    "conv-training": "Training with each convolution algorithm",
    "own-data": "The defaults on small data sets beside scikit-learn's MLPClassifier",
    "gpu-check": "Checks and timings on a GPU",
}

Report = dict[str, Any]


def report(kind: str, results: Sequence[Mapping[str, Any]], *, threads: int | None = None, **facts: Any) -> Report:
    """The contents of a result file; `facts` are additional entries, such as the roofline."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"kind": kind, "date": date, **machine.environment(threads), **facts, "results": list(results)}


def save_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--save [FOLDER]``: None without it."""
    parser.add_argument(
        "--save", type=Path, nargs="?", const=RESULTS, metavar="FOLDER",
        help="write a dated result as JSON and Markdown (default: bench/results)",
    )  # fmt: skip


def save(found: Report, table: str, folder: Path = RESULTS) -> Path:
    """Write `found` to ``<kind>-<date>.json`` and `table` to a page next to it; returns the JSON file's path.

    Raises:
        OutputError: the folder cannot be created, or a file cannot be written.
    """
    stamp = found["date"].replace("T", "-").replace(":", "").rstrip("Z")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['kind']}-{stamp}.json"
    write_text_atomic(path, json.dumps(found, indent=1) + "\n")
    write_text_atomic(path.with_suffix(".md"), page(found, table))
    return path


def finish(kind: str, found: Sequence[Mapping[str, Any]], table: str, args: argparse.Namespace) -> None:
    """Print the table of a program's results, and write the files requested with ``--json`` and ``--save``."""
    print(table)
    if args.json:
        write_text_atomic(args.json, json.dumps(list(found), indent=1) + "\n")
    if args.save:
        print(f"written: {save(report(kind, found, threads=args.threads), table, args.save)}")


def page(found: Report, table: str) -> str:
    """A result as a Markdown page."""
    head = [f"# {TITLES[found['kind']]}, {day(found)}", "", f"- {machine.where(found)}", f"- {machine.which(found)}"]
    if "roofline" in found:
        head += [f"- {device}: {describe_roofline(peak)}" for device, peak in found["roofline"].items()]
    return "\n".join([*head, "", table, ""])


def describe_roofline(peak: Mapping[str, float]) -> str:
    return f"{peak['gflop_per_s']:,.0f} GFLOP/s in a large product, {peak['gbyte_per_s']:,.1f} GB/s in a large copy"


def day(found: Report) -> str:
    return str(found["date"][:10])


def load(path: Path) -> Report:
    """The contents of a result file, plus its name as ``file``.

    Raises:
        DataError: it is missing or is not a result file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a result file: {error}") from error
    needed = {"kind", "date", "machine", "versions", "commit", "results"}
    if not isinstance(found, dict) or not needed <= set(found) or found["kind"] not in TITLES:
        raise DataError(f"{path} is not a result file: expected an object with {', '.join(sorted(needed))}")
    return {**found, "file": path.name}


def newest(kind: str, files: Sequence[Path] | None = None) -> Report | None:
    """The newest result of a kind among `files` (default: all in ``bench/results/``); None if there is none."""
    files = sorted(RESULTS.glob("*.json")) if files is None else files
    found = [load(path) for path in files if path.name.startswith(f"{kind}-") and path.suffix == ".json"]
    return max(found, key=lambda one: one["date"], default=None)


def committed(folder: Path = RESULTS) -> list[Path]:
    """The committed result files in `folder`; outside a repository, all of them."""
    listed = machine.git("ls-files", "-z", "--", str(folder))
    if listed is None:
        return sorted(folder.glob("*.json"))
    return sorted(machine.ROOT / name for name in listed.split("\0") if name.endswith(".json"))
