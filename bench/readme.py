"""The speed tables of README.md and docs/benchmarks.md, generated from the newest result files in ``bench/results/``.

python -m bench.readme            writes them between the two marker comments; the README has only the whole steps
python -m bench.readme --check    checks that they match the committed files; exit code 1 if not
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine, results
from bench.conftest import NETWORK
from bench.table import Row, markdown, ratio, rows
from gpunet.errors import DataError
from gpunet.files import write_text_atomic
from scripts.study.markers import fill

BEGIN = "<!-- speed: begin; written by python -m bench.readme, not by hand -->"
END = "<!-- speed: end -->"

NOTHING = "Nothing has been measured on an idle machine yet: `EXTRAS=peers make bench` does so on yours.\n"
Parts = Mapping[str, Callable[[results.Report], str]]

WORK = {"cnn-train": "CNN, training", "cnn-infer": "CNN, inference", "mlp-train": "MLP, training"}
DIRECTIONS = {"forward": "forward", "dx": "input gradient", "dweight": "weight gradient"}


def speed(parts: Parts, files: Sequence[Path] | None = None) -> str:
    """The text between the markers: for each kind of result in `parts`, from the newest of `files` (default: all)."""
    found = {kind: results.newest(kind, files) for kind in parts}
    texts = [part(found[kind]) for kind, part in parts.items() if found[kind] is not None]
    return "\n".join(texts) or NOTHING


def source(found: results.Report) -> str:
    """The machine, versions and commit of a table."""
    return (
        f"Measured on {results.day(found)} on {machine.where(found)}; {machine.which(found)} "
        f"(`bench/results/{found['file']}`).\n"
    )


def whole_steps(found: results.Report) -> str:
    """Each case against the best configuration of each library."""
    best: dict[tuple[str, int, str], Any] = {}
    for one in found["results"]:
        key = one["case"], one["batch"], one["peer"].split()[0]
        if key not in best or one["ratio"] < best[key]["ratio"]:
            best[key] = one
    lines = [
        [
            WORK[one["case"]], str(one["batch"]), one["peer"], ratio(one["ratio"]),
            f"{ratio(one['low'])} to {ratio(one['high'])}", f"{one['ours_per_s']:,.0f}", f"{one['peer_per_s']:,.0f}",
        ]
        for one in best.values()
    ]  # fmt: skip
    header = ["whole steps", "batch", "against", "ratio", "lowest to highest", "gpunet images/s", "peer images/s"]
    text = (
        "Whole steps, against the fastest configuration of each library; the ratio is gpunet's speed divided by "
        "the peer's, so below 1 gpunet is slower:\n"
    )
    return "\n".join([text, markdown(header, lines, left=3), "", source(found)])


def single_ops(found: results.Report) -> str:
    """The network's convolutions against PyTorch, and a summary of all ops."""
    batch = max(one["batch"] for one in found["results"])
    parts = []
    by_layer: dict[str, dict[str, Row]] = {}
    for row in rows(found["results"], "pytorch"):
        if row.op == "conv2d" and row.shape in NETWORK and row.ratio is not None and row.device == "cpu":
            by_layer.setdefault(row.shape, {})[row.direction] = row
    if by_layer:
        lines = [
            [_layer(shape), *(ratio(of[direction].ratio) if direction in of else "" for direction in DIRECTIONS)]
            for shape, of in by_layer.items()
        ]
        parts += [
            f"Convolutions of the CNN at batch size {batch}: PyTorch's time (in its faster layout) divided by "
            "gpunet's, so below 1 gpunet is slower:\n",
            markdown(["layer", *DIRECTIONS.values()], lines),
            "",
        ]
    compared = [row for row in rows(found["results"]) if row.ratio is not None]
    if compared:
        slower = sum(row.ratio < 1 for row in compared if row.ratio is not None)
        parts += [
            f"All ops against the fastest peer (NumPy, PyTorch or scikit-learn) in {len(compared)} cases, in {slower} "
            "of which gpunet is slower:\n",
            _summary(compared),
            "",
        ]
    return "\n".join([*parts, source(found)])


def _layer(shape: str) -> str:
    channels, filters, size = NETWORK[shape]
    return f"{shape.split('-')[0]}, {channels} to {filters} channels, {size} x {size}"


def _summary(compared: Sequence[Row]) -> str:
    lines = []
    for op in dict.fromkeys(row.op for row in compared):
        cases = sorted((row for row in compared if row.op == op), key=lambda row: row.ratio or 0.0)
        middle = statistics.median(row.ratio for row in cases if row.ratio is not None)
        slower = sum(row.ratio < 1 for row in cases if row.ratio is not None)
        worst, best = (f"{ratio(row.ratio)} ({row.shape} {row.direction})" for row in (cases[0], cases[-1]))
        lines.append([op, str(len(cases)), str(slower), ratio(middle), worst, best])
    return markdown(["op", "cases", "slower in", "median ratio", "worst", "best"], lines)


def first_steps(found: results.Report) -> str:
    """Seconds from the start of a process to the end of its first training step."""
    lines = [
        [WORK[one["case"]], one["contestant"], one["cache"] or "none", f"{one['seconds']:.1f}"]
        for one in found["results"]
    ]
    text = "Seconds from the start of a process to the end of its first training step:\n"
    header = ["model", "library", "kernel cache", "seconds"]
    return "\n".join([text, markdown(header, lines, left=3), "", source(found)])


def peak_memory(found: results.Report) -> str:
    """Peak resident memory of training."""
    lines = [
        [WORK[one["case"]], str(one["batch"]), one["contestant"], f"{one['peak_mb']:,.0f}"] for one in found["results"]
    ]
    text = "Peak resident memory of a training process, with kernels already compiled:\n"
    return "\n".join([text, markdown(["model", "batch", "library", "MB"], lines, left=3), "", source(found)])


def gpu_cases(found: results.Report) -> list[tuple[str, int, str, float, str, float]]:
    """Of each case of the GPU's race: work, batch, precision, gpunet's microseconds, fastest peer, its microseconds."""
    race = next((part["facts"] for part in found["results"] if part["name"] == "race"), None)
    cases = []
    for case, times in (race or {}).items():  # a check of chosen parts, or one that failed, may have none
        if not isinstance(times, dict) or len(times) < 2 or "gpunet" not in times:
            continue  # a version, or the words of one who crashed
        work, batch, precision = case.split(", ")
        medians = {name: numbers[0] for name, numbers in times.items()}
        ours = medians.pop("gpunet")
        peer = min(medians, key=lambda name: medians[name])
        cases.append((WORK[work], int(batch.split()[1]), precision, ours, peer, medians[peer]))
    return cases


def gpu_source(found: results.Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    gpu = found["machine"]["gpu"].split(",")[0]
    place = f"Measured on {results.day(found)} on {gpu}; {versions}; commit {found['commit']}"
    return f"{place} (`bench/results/{found['file']}`).\n"


def gpu_steps(found: results.Report) -> str:
    """Each case of the GPU's race against the fastest way of PyTorch."""
    lines = [
        [
            work, str(batch), precision, peer, ratio(theirs / ours), f"{1e6 * batch / ours:,.0f}",
            f"{1e6 * batch / theirs:,.0f}",
        ]
        for work, batch, precision, ours, peer, theirs in gpu_cases(found)
    ]  # fmt: skip
    text = (
        "Whole steps on a GPU, against the fastest of PyTorch's ways (eager, as a CUDA graph, with 256 images also "
        "compiled); the ratio is that of the speeds, so below 1 gpunet is slower:\n"
    )
    header = ["on a GPU", "batch", "precision", "against", "ratio", "gpunet images/s", "peer images/s"]
    return "\n".join([text, markdown(header, lines, left=4), "", gpu_source(found)])


def gpu_sentence(found: results.Report) -> str:
    """The same in one sentence."""
    by_case: dict[str, list[str]] = {}
    cases = gpu_cases(found)
    fastest = " or ".join(sorted({peer for *_, peer, _ in cases}))
    for work, batch, _, ours, _, theirs in cases:
        by_case.setdefault(f"{work} with {batch:,} images", []).append(ratio(theirs / ours))
    said = "; ".join(f"{case} {' and '.join(ratios)}" for case, ratios in by_case.items())
    gpu = found["machine"]["gpu"].split(",")[0]
    return (
        f"On a GPU ({gpu}), the ratios to the fastest peer ({fastest}) in float32 and in TF32 are: {said} "
        f"(`bench/results/{found['file']}`).\n"
    )


STEPS = {"race": whole_steps, "gpu-check": gpu_sentence}
TABLES = {
    "race": whole_steps,
    "gpu-check": gpu_steps,
    "bench": single_ops,
    "start-up": first_steps,
    "memory": peak_memory,
}
"""The tables of each kind of result, for the README and for the page of benchmarks."""
PAGES = {machine.ROOT / "README.md": STEPS, machine.ROOT / "docs" / "benchmarks.md": TABLES}


def filled(page: str, part: str) -> str:
    """`page` with `part` between the markers.

    Raises:
        DataError: the page does not contain each marker exactly once, in order.
    """
    return fill(page, BEGIN, END, f"\n{part}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readme")
    parser.add_argument("--check", action="store_true", help="only check; exit code 1 if a page is out of date")
    args = parser.parse_args(argv)
    old = 0
    for path, parts in PAGES.items():
        page = path.read_text(encoding="utf-8")
        wanted = filled(page, speed(parts, results.committed() if args.check else None))
        if not args.check:
            write_text_atomic(path, wanted)
        elif wanted != page:
            print(f"{path.name} does not match the result files: run python -m bench.readme", file=sys.stderr)
            old = 1
    return old


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DataError as error:
        sys.exit(str(error))
