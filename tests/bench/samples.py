"""Result files made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MACHINE = {
    "cpu": "Some CPU", "features": ["AVX2"], "cores": 2, "threads": 2, "memory_gb": 8.0, "system": "Linux", "gpus": [],
}  # fmt: skip


def result(
    op: str, implementation: str, ms: float, *, ratio: float | None = None, shape: str = "8", direction: str = "forward"
) -> dict[str, Any]:
    """One implementation's result; its rates are those of 10 MFLOP and 1 MB."""
    compared = {} if ratio is None else {"ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.25}
    return {
        "op": op, "shape": shape, "direction": direction, "batch": 4, "implementation": implementation,
        "device": "cpu", "ms": ms, "gflop_per_s": 10 / ms, "gbyte_per_s": 1 / ms, "roofline_share": 0.2 / ms,
        "bound": "arithmetic", "rounds": 5, **compared,
    }  # fmt: skip


def ops() -> list[dict[str, Any]]:
    """Two convolutions of the network, one with a loss, and an activation without PyTorch."""
    conv1, conv2 = {"shape": "conv1-1x32@28"}, {"shape": "conv2-32x64@14"}
    return [
        result("conv2d", "reference", 90.0, **conv1),
        result("conv2d", "numpy", 12.0, ratio=6.0, **conv1),
        result("conv2d", "numba", 2.0, **conv1),
        result("conv2d", "pytorch-nchw", 6.0, ratio=3.1, **conv1),
        result("conv2d", "pytorch-nhwc", 5.0, ratio=2.5, **conv1),
        result("conv2d", "numba", 4.0, **conv2),
        result("conv2d", "pytorch-nchw", 3.0, ratio=0.75, **conv2),
        result("relu", "numpy", 0.02, ratio=1.25),
        result("relu", "numba", 0.016),
    ]


def report(
    kind: str, results: list[dict[str, Any]], date: str = "2026-01-02T03:04:05Z", **facts: Any
) -> dict[str, Any]:
    roofline = {"roofline": {"cpu": {"gflop_per_s": 50.0, "gbyte_per_s": 10.0}}} if kind == "bench" else {}
    return {
        "kind": kind, "date": date, "machine": MACHINE, "versions": {"python": "3.12.1", "numpy": "2.4.0"},
        "commit": {"hash": "0123456789abcdef", "dirty": False}, **roofline, "results": results, **facts,
    }  # fmt: skip


def write(folder: Path, found: dict[str, Any]) -> Path:
    path = folder / f"{found['kind']}-{found['date'][:10]}.json"
    path.write_text(json.dumps(found))
    return path
