"""Checks that need a GPU: runs each part in a separate process, continues past failures, and writes the results.

The result is a dated JSON file and a Markdown page of the same name in ``bench/results/``. Run it with
``scripts/gpu_check.sh``. Only the standard library is imported here, so that missing packages can be reported.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BUDGET = 570
"""Time budget in seconds; parts that would start later are skipped and reported as left out."""
_PATHS = ("python", "data", "cache")
"""What gpunet doctor says of this machine's folders alone."""
LEFT_OUT = 77
"""The exit status of a part that lacks what it needs; its last line says what."""


@dataclass(frozen=True)
class Part:
    """A command to run, with a time limit in seconds."""

    name: str
    command: tuple[str, ...]
    limit: int
    environment: dict[str, str] = field(default_factory=dict)
    alone: bool = True
    """Whether it must not run beside others, because it measures times."""


@dataclass
class Outcome:
    """The outcome of a part. `facts` is the last line of its output, if that is JSON."""

    name: str
    status: str
    """``passed``, ``failed``, ``timed out``, ``left out``."""
    seconds: float = 0.0
    summary: str = ""
    facts: Any = None
    tail: str = ""


def parts(quick: bool, rehearse: bool = False) -> list[Part]:
    """All parts in order; neighbours that need not be alone run side by side. It takes less than :data:`BUDGET`.

    Args:
        quick: train for 2 epochs only.
        rehearse: train and time on next to no data: where there is no GPU, on a stand-in.
    """
    python = sys.executable
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    sanitizer = shutil.which("compute-sanitizer", path=folders) or "compute-sanitizer"
    step = (python, "-m", "bench.gpu_step", "--sanitize")
    small = ("--rehearse",) if rehearse else ()

    def sanitized(tool: str) -> Part:
        return Part(tool, (sanitizer, "--tool", tool, "--error-exitcode", "9", *step), 150, alone=False)

    return [
        Part("doctor", (python, "-m", "gpunet", "doctor", "--device", "cuda", "--json"), 30),
        Part("compile all", (python, "-m", "bench.gpu_step", "--compile"), 60),
        Part(
            "GPU tests",
            (python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/cuda"),
            180,
            {"GPUNET_REQUIRE_GPU": "1"},
            alone=False,
        ),
        *map(sanitized, ("memcheck", "initcheck", "racecheck", "synccheck")),
        Part("training", (python, "-m", "bench.gpu_step", "--train", "2" if quick else "20", *small), 60),
        Part("timings", (python, "-m", "bench.gpu_step", *small), 80),
        Part("race", (python, "-m", "bench.gpu_race", *small), 140),
    ]


def stages(parts: Sequence[Part]) -> list[list[Part]]:
    """Those that run at the same time."""
    found: list[list[Part]] = []
    for part in parts:
        if found and not part.alone and not found[-1][-1].alone:
            found[-1].append(part)
        else:
            found.append([part])
    return found


def run(part: Part, seconds_left: float) -> Outcome:
    """Run one part; never raises."""
    if seconds_left < 5:
        return Outcome(part.name, "left out", summary="no time left")
    program = part.command[0]
    if shutil.which(program) is None:
        return Outcome(part.name, "left out", summary=f"{program} is not on this machine")
    started = time.monotonic()
    limit = min(part.limit, seconds_left)
    try:
        done = subprocess.run(
            part.command,
            env={**os.environ, **part.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            check=False,
        )
        output, status = done.stdout, {0: "passed", LEFT_OUT: "left out"}.get(done.returncode, "failed")
    except subprocess.TimeoutExpired as error:
        output, status = error.stdout or b"", "timed out"
    except OSError as error:
        output, status = str(error).encode(), "failed"
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    facts = _last_json(lines)
    summary = lines[-1].strip("= ") if lines and facts is None else ""
    tail = "\n".join(lines[-60:]) if status not in ("passed", "left out") else ""
    if isinstance(facts, dict):
        facts = {name: value for name, value in facts.items() if name not in _PATHS}
    return Outcome(part.name, status, round(time.monotonic() - started, 1), summary, facts, tail)


def _last_json(lines: Sequence[str]) -> Any:
    for line in reversed(lines[-20:]):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                return None
    return None


def environment() -> dict[str, str]:
    """Device, driver, versions and commit."""
    found = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "gpu": _said(
            "nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"
        ),
        "python": platform.python_version(),
        "commit": os.environ.get("GPUNET_COMMIT") or _said("git", "describe", "--always", "--dirty") or "unknown",
    }
    for package in ("numpy", "numba", "cupy", "torch"):
        found[package] = (
            _said(sys.executable, "-c", f"import {package}; print({package}.__version__)") or "not installed"
        )
    return found


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return " / ".join(done.stdout.split("\n")).strip(" /") if done.returncode == 0 else ""


def report(facts: Mapping[str, str], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The contents of the result file, as :mod:`bench.results` has them."""
    versions = {name: value for name, value in facts.items() if name not in ("date", "gpu", "commit")}
    return {
        "kind": "gpu-check",
        "date": facts["date"],
        "machine": {"gpu": facts["gpu"]},
        "versions": versions,
        "commit": facts.get("commit", "unknown"),
        "results": [asdict(outcome) for outcome in outcomes],
    }


def markdown(facts: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """The results as a Markdown page."""
    lines = [f"# GPU check, {facts['date']}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| part | result | seconds | |", "|---|---|---|---|"]
    lines += [f"| {o.name} | {o.status} | {o.seconds} | {o.summary} |" for o in outcomes]
    for outcome in outcomes:
        if isinstance(outcome.facts, dict):
            lines += ["", f"## {outcome.name}", "", "| | |", "|---|---|"]
            lines += [f"| {name} | {_cell(value)} |" for name, value in outcome.facts.items()]
        if outcome.tail:
            lines += ["", f"## Output of {outcome.name}", "", "```", outcome.tail, "```"]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "; ".join(f"{name}: {_microseconds(item)}" for name, item in value.items())


def _microseconds(item: Any) -> str:
    return "{} us ({} to {})".format(*item) if isinstance(item, list) and len(item) == 3 else str(item)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts; 0 if none failed or timed out."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=RESULTS, help="output folder (default: bench/results)")
    parser.add_argument("--only", metavar="PART", nargs="*", help="run only these parts")
    parser.add_argument("--quick", action="store_true", help="train for 2 epochs only")
    parser.add_argument("--rehearse", action="store_true", help="on next to no data: nothing that is measured counts")
    args = parser.parse_args(argv)
    chosen = [part for part in parts(args.quick, args.rehearse) if not args.only or part.name in args.only]
    facts, outcomes = environment(), []
    started = time.monotonic()
    name = f"gpu-check-{facts['date'].replace('T', '-').replace(':', '').rstrip('Z')}"
    args.out.mkdir(parents=True, exist_ok=True)
    for stage in stages(chosen):
        left = BUDGET - (time.monotonic() - started)
        with ThreadPoolExecutor(len(stage)) as pool:
            done = list(pool.map(run, stage, [left] * len(stage)))
        for outcome in done:
            print(f"{outcome.name:<12} {outcome.status:<9} {outcome.seconds:>6} s  {outcome.summary}", flush=True)
            if outcome.tail:
                print("\n".join(f"    {line}" for line in outcome.tail.splitlines()[-25:]), flush=True)
        outcomes += done
        # After each stage, so that an interrupted run leaves its results so far.
        (args.out / f"{name}.json").write_text(json.dumps(report(facts, outcomes), indent=1) + "\n")
        (args.out / f"{name}.md").write_text(markdown(facts, outcomes))
    return 0 if all(outcome.status in ("passed", "left out") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
