"""Plots of an op benchmark result, as PNG files next to it: a bar chart of the ratios, and the roofline.

python -m bench.plots [FILE.json]      (default: the newest in bench/results/)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import machine, results
from bench.roofline import Roofline
from bench.table import Row, rows
from gpunet.errors import DataError
from gpunet.report.canvas import BLUE, GREY, TEN, VERMILLION, PathLike, page

MARKERS = "os^Dv<>P*X"


def bars(table: Sequence[Row], title: str, path: PathLike) -> None:
    """A bar per op, shape and direction that has a peer: the peer's time relative to gpunet's.

    Raises:
        DataError: no op has a peer.
        OutputError: `path` cannot be written.
    """
    compared = [row for row in table if row.ratio is not None]
    if not compared:
        raise DataError("no op was compared with a peer, so there are no ratios to draw")
    ratios = np.array([row.ratio for row in compared])
    spread = np.array([[row.ratio - row.low, row.high - row.ratio] for row in compared]).T
    with page(path, 8, 1.2 + 0.17 * len(compared)) as figure:
        axes = figure.subplots()
        places = np.arange(len(compared))
        colours = [BLUE if one >= 1 else VERMILLION for one in ratios]
        # Bars start at 1 and go either way: on a logarithmic axis, twice as fast is as long as half as fast.
        axes.barh(places, ratios - 1, left=1, color=colours, xerr=spread, ecolor=GREY, error_kw={"linewidth": 0.7})
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if _near(tick, compared)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_yticks(places, [f"{row.name} ({row.peer})" for row in compared], fontsize=6)
        axes.set_ylim(len(compared) - 0.4, -0.6)
        axes.set_xlabel("time of the fastest peer / time of gpunet; above 1, gpunet is faster")
        axes.set_title(title)


def _near(tick: float, table: Sequence[Row]) -> bool:
    low, high = min(row.low or 1.0 for row in table), max(row.high or 1.0 for row in table)
    return min(low, 1) / 2 <= tick <= max(high, 1) * 2


def roofline(table: Sequence[Row], peak: Roofline, title: str, path: PathLike) -> None:
    """FLOP rate against arithmetic intensity of each op, below the machine's roofline.

    Raises:
        DataError: there are no ops.
        OutputError: `path` cannot be written.
    """
    if not table:
        raise DataError("there are no ops to draw")
    names = list(dict.fromkeys(row.op for row in table))
    intensity = np.array([row.ours["gflop_per_s"] / row.ours["gbyte_per_s"] for row in table])
    ends = np.array([min(intensity.min() / 2, 0.1), max(intensity.max() * 2, 4 * peak.gflop_per_s / peak.gbyte_per_s)])
    with page(path, 8, 5) as figure:
        axes = figure.subplots()
        x = np.geomspace(*ends, 200)
        axes.plot(x, np.minimum(x * peak.gbyte_per_s, peak.gflop_per_s), color="black", linewidth=1)
        for place, name in enumerate(names):
            chosen = [index for index, row in enumerate(table) if row.op == name]
            axes.plot(
                intensity[chosen], [table[index].ours["gflop_per_s"] for index in chosen],
                MARKERS[place // len(TEN) * 3 + place % 3], color=TEN[place % len(TEN)], label=name, markersize=5,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.set_xlabel("arithmetic intensity (FLOP/byte)")
        axes.set_ylabel("GFLOP/s")
        axes.set_title(f"{title}\n{results.describe_roofline(peak._asdict())}")
        figure.legend(loc="outside right upper", fontsize=7)


def draw(path: Path) -> list[Path]:
    """Both plots of a result file, one roofline per device; returns the files written.

    Raises:
        DataError: `path` is not a result of the op benchmarks, or holds nothing to draw.
        OutputError: a file cannot be written.
    """
    found = results.load(path)
    if found["kind"] != "bench":
        raise DataError(f"{path} holds results of kind {found['kind']}, expected bench, as from make bench")
    table = rows(found["results"])
    title = f"{found['machine']['cpu']}, {machine.threads_in_words(found['machine'])}, {results.day(found)}"
    written = [path.with_name(f"{path.stem}-ratios.png")]
    bars(table, title, written[0])
    for device, peak in found["roofline"].items():
        written.append(path.with_name(f"{path.stem}-roofline-{device.replace(':', '')}.png"))
        roofline([row for row in table if row.device == device], Roofline(**peak), title, written[-1])
    return written


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plots")
    parser.add_argument("file", type=Path, nargs="?", help="a result of make bench (default: the newest)")
    args = parser.parse_args(argv)
    if args.file is None:
        newest = results.newest("bench")
        if newest is None:
            raise DataError(f"there is no result in {results.RESULTS} yet: run make bench")
        args.file = results.RESULTS / newest["file"]
    for path in draw(args.file):
        print(f"written: {path}")


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
