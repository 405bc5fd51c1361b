"""Tables of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.contest import OURS

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One op at one shape in one direction on one device: gpunet's result and its peer."""

    op: str
    shape: str
    direction: str
    batch: int
    device: str
    ms: dict[str, float]
    """Time of each implementation, in its fastest variant."""
    ours: Result
    peer: str | None = None
    """The fastest other implementation (the reference excepted), with its variant; None if there is none."""
    ratio: float | None = None
    """The peer's time divided by gpunet's, median over the pairs: above 1 if gpunet is faster."""
    low: float | None = None
    high: float | None = None

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape} {self.direction}"

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        return self.op, self.shape, self.direction, self.batch, self.device


def rows(results: Iterable[Result], peers: str = "") -> list[Row]:
    """The results of a ``bench`` file, one row per problem that gpunet was timed on.

    peers: compare only with implementations of this family, such as ``pytorch``.
    """
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        key = tuple(result[name] for name in ("op", "shape", "direction", "batch", "device"))
        groups.setdefault(key, []).append(result)
    found = []
    for key, group in groups.items():
        ours = next((result for result in group if result["implementation"] == OURS[key[4].split(":")[0]]), None)
        if ours is None:
            continue
        ms: dict[str, float] = {}
        for result in group:
            kind = family(result["implementation"])
            ms[kind] = min(result["ms"], ms.get(kind, result["ms"]))
        rivals = [one for one in group if one.get("ratio") and peers in ("", family(one["implementation"]))]
        peer = min(rivals, key=lambda one: one["ratio"], default=None)
        compared = {} if peer is None else {name: peer[name] for name in ("ratio", "low", "high")}
        found.append(Row(*key, ms=ms, ours=ours, peer=peer and peer["implementation"], **compared))
    return found


def family(implementation: str) -> str:
    """An implementation without its variant: ``pytorch`` for ``pytorch-nhwc``."""
    return "pytorch" if implementation.startswith("pytorch") else implementation


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table with aligned columns, also in plain text; all but the first `left` are right-aligned."""
    cells = [list(header), *([str(cell) for cell in line] for line in lines)]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(header))]

    def padded(line: Sequence[str]) -> str:
        texts = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return f"| {' | '.join(texts)} |"

    rule = "|".join("-" * (w + 2) if column < left else "-" * (w + 1) + ":" for column, w in enumerate(widths))
    return "\n".join([padded(cells[0]), f"|{rule}|", *(padded(line) for line in cells[1:])])


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits, never in scientific notation; empty for None."""
    if value is None:
        return ""
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    small = 0
    while 0 < abs(value) < 10 ** -(small + 1):
        small += 1
    return f"{value:,.{max(0, digits - whole + small)}f}"


def ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def ops(results: Iterable[Result]) -> str:
    """The table of a ``bench`` file."""
    table = rows(results)
    order = ("reference", "numpy", "numba", "cupy", "rawkernel", "scikit-learn", "pytorch")
    shown = [kind for kind in order if any(kind in row.ms for row in table)]
    header = ["op", "shape", "direction", *(f"{kind} ms" for kind in shown)]
    header += ["peer", "peer/ours", "lowest to highest", "GFLOP/s", "GB/s", "roofline"]
    lines = [
        [
            row.op, row.shape, row.direction, *(number(row.ms.get(kind)) for kind in shown),
            row.peer or "", ratio(row.ratio), "" if row.low is None else f"{ratio(row.low)} to {ratio(row.high)}",
            number(row.ours["gflop_per_s"]), number(row.ours["gbyte_per_s"]), f"{row.ours['roofline_share']:.0%}",
        ]
        for row in table
    ]  # fmt: skip
    return markdown(header, lines, left=3)
