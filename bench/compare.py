"""Compares a run of the op benchmarks with an earlier one and flags regressions.

    python -m bench.compare [NEW.json] [--against OLD.json] [--select EXPRESSION]

Without NEW, the benchmarks are run with the batch size and threads of the old file, and saved in ``.benchmarks/``;
without ``--against``, OLD is the newest committed result. Runs are compared by their ratios to the same peer, in which
the state of the machine cancels out; without a common peer, by gpunet's time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import results, suite
from bench.machine import ROOT
from bench.table import Row, markdown, number, ratio, rows
from gpunet.errors import DataError

SLOWER = 1.10
"""Slowdown from which an op is flagged."""


@dataclass(frozen=True)
class Change:
    """One op in two runs."""

    old: Row
    new: Row

    @property
    def time(self) -> float:
        """gpunet's new time divided by its old one."""
        return self.new.ms[_ours(self.new)] / self.old.ms[_ours(self.old)]

    @property
    def slowdown(self) -> float:
        """Factor of slowdown: relative to the same peer if both runs have one, else by gpunet's time alone."""
        if self.old.peer == self.new.peer and self.old.ratio and self.new.ratio:
            return self.old.ratio / self.new.ratio
        return self.time

    @property
    def slower(self) -> bool:
        return self.slowdown > SLOWER


def _ours(row: Row) -> str:
    return str(row.ours["implementation"])


def changes(old: results.Report, new: results.Report) -> list[Change]:
    """The ops in both runs, in the order of the new one."""
    before = {row.key: row for row in rows(old["results"])}
    return [Change(before[row.key], row) for row in rows(new["results"]) if row.key in before]


def table(found: Sequence[Change]) -> str:
    header = ["op", "shape", "direction", "old ms", "new ms", "time new/old", "peer", "peer/ours old", "new"]
    lines = [
        [
            one.new.op, one.new.shape, one.new.direction, number(one.old.ms[_ours(one.old)]),
            number(one.new.ms[_ours(one.new)]), ratio(one.time), _peers(one), ratio(one.old.ratio),
            ratio(one.new.ratio), f"{one.slowdown:.2f}x slower" if one.slower else "",
        ]
        for one in found
    ]  # fmt: skip
    return markdown([*header, "flag"], lines, left=3)


def _peers(change: Change) -> str:
    old, new = change.old.peer or "", change.new.peer or ""
    return new if old == new else f"{old or 'none'}, then {new or 'none'}"


def remarks(old: results.Report, new: results.Report, found: Sequence[Change]) -> list[str]:
    """Notes to go with the table."""
    said = [f"old: {old['file']}, {results.day(old)}; new: {results.day(new)}; {len(found)} ops in both"]
    if _place(old) != _place(new):
        said.append("the machines differ: times are not comparable, ratios only with care")
    differing = [name for name in ("torch", "numpy", "numba") if old["versions"].get(name) != new["versions"].get(name)]
    if differing:
        said.append(f"versions differ: {', '.join(differing)}")
    gone = [row.name for row in rows(old["results"]) if row.key not in {one.new.key for one in found}]
    if gone:
        said.append(f"not in the new run: {', '.join(gone)}")
    slower = [one for one in found if one.slower]
    said.append(f"more than {SLOWER - 1:.0%} slower: {', '.join(one.new.name for one in slower) or 'none'}")
    return said


def _place(report: results.Report) -> tuple[object, ...]:
    return tuple(report["machine"].get(name) for name in ("cpu", "cores", "threads", "gpus"))


def last_committed() -> results.Report:
    """The newest committed result of the op benchmarks.

    Raises:
        DataError: there is none.
    """
    found = results.newest("bench", results.committed())
    if found is None:
        raise DataError(
            f"there is no committed result of the op benchmarks in {results.RESULTS}: run make bench and commit what "
            "it writes, or name a file with --against"
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare")
    parser.add_argument("new", type=Path, nargs="?", help="a result file (default: run the benchmarks now)")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="default: the newest committed one")
    parser.add_argument("--select", default="", metavar="EXPRESSION", help="as pytest -k, such as conv2d")
    args = parser.parse_args(argv)
    old = results.load(args.against) if args.against else last_committed()
    _expect_ops(old)
    if args.new:
        new = results.load(args.new)
        _expect_ops(new)
    else:
        batch = next((result["batch"] for result in old["results"] if result["batch"] > 1), suite.BATCH)
        new = suite.run(batch, old["machine"]["threads"], args.select)
        results.save(new, suite.table.ops(new["results"]), ROOT / ".benchmarks")
    found = changes(old, new)
    if not found:
        raise DataError("the two runs have no op in common: compare runs of the same batch size")
    print(f"\n{table(found)}\n")
    print("\n".join(remarks(old, new, found)))


def _expect_ops(report: results.Report) -> None:
    if report["kind"] != "bench":
        raise DataError(f"{report['file']} holds results of kind {report['kind']}, expected bench, as from make bench")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
