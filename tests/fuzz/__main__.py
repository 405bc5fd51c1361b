"""``python -m tests.fuzz --seconds N``: fuzz every parser; exit 1, with the inputs saved, if one ends badly.

Input number n of a seed is always the same: ``--only n`` reads it alone, and shows the whole traceback.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz import targets as declared
from tests.fuzz.campaign import CURRENT, Finding, Result, campaign, input_of, judge
from tests.fuzz.targets import Target


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="duration (default: 20, unless --inputs is given)")
    parser.add_argument("--inputs", type=int, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other inputs (default: 0)")
    parser.add_argument("--only", type=int, metavar="N", help="read input N alone")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder for the inputs that end badly")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # in a process that may crash
    args = parser.parse_args(words)
    if args.folder is None:
        return _watched(args)
    known = declared.targets(args.folder)
    if args.only is not None:
        result = Result()
        target = known[args.only % len(known)]
        judge(target, args.folder, args.only, input_of(target, args.seed, args.only), result)
    else:
        seconds = 20.0 if args.seconds is None and args.inputs is None else args.seconds
        with _without_complaints():
            result = campaign(known, args.folder, seed=args.seed, seconds=seconds, inputs=args.inputs)
        _print_table(known, result)
    for finding in result.findings.values():
        _report(finding, args)
    return 1 if result.findings else 0


def _watched(args: argparse.Namespace) -> int:
    """The campaign in a process of its own, whose end by a signal is a finding, too."""
    with tempfile.TemporaryDirectory(prefix="gpunet-fuzz-") as name:
        words = [*sys.argv[1:], "--folder", name]
        code = subprocess.call([sys.executable, "-m", "tests.fuzz", *words])
        if code < 0:
            _report(crash(Path(name), args.seed, -code), args)
    return 1 if code else 0


def crash(folder: Path, seed: int, number: int) -> Finding:
    """The finding that a process left behind that signal `number` ended."""
    last = int((folder / CURRENT).read_text())
    with tempfile.TemporaryDirectory() as name:
        known = declared.targets(Path(name))
    target = known[last % len(known)]
    return Finding(target, last, f"ends the process by signal {number}", input_of(target, seed, last))


@contextmanager
def _without_complaints() -> Iterator[None]:
    """Without what libtiff writes to the standard error; crashes are reported there all the same."""
    sys.stderr.flush()
    errors = os.dup(2)
    faulthandler.enable(errors)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(errors, 2)
        faulthandler.disable()
        os.close(errors)
        os.close(nothing)


def _print_table(known: list[Target], result: Result) -> None:
    print(f"{'':32} {'inputs':>8} {'values':>8} {'errors':>8} {'findings':>8}")
    for target in known:
        values, errors = result.values.get(target.name, 0), result.errors.get(target.name, 0)
        bad = sum(found.count for found in result.findings.values() if found.target is target)
        print(f"{target.name:32} {values + errors + bad:8} {values:8} {errors:8} {bad:8}")
    values, errors = sum(result.values.values()), sum(result.errors.values())
    print(f"{'all':32} {result.inputs:8} {values:8} {errors:8} {result.inputs - values - errors:8}")


def _report(finding: Finding, args: argparse.Namespace) -> None:
    """Save and print a finding."""
    kind = finding.target.name.replace(" ", "-").replace(",", "")
    folder = args.out / f"{kind}-{args.seed}-{finding.number}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(finding.target.file).name
    path.write_bytes(finding.data)
    (folder / "finding.txt").write_text(f"{finding.what}\n\n{finding.details}\n", encoding="utf-8")
    print(f"FINDING: {finding.target.name}: {finding.what} ({finding.count} inputs, the first is {finding.number})")
    print(f"  saved as {path}; again with: python -m tests.fuzz --seed {args.seed} --only {finding.number}")
    if args.only is not None:
        print(finding.details)


if __name__ == "__main__":
    raise SystemExit(main())
