"""Dropout, forward and backward. Masks differ between implementations, so the check includes the mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem, nbytes, on_host, prepare
from gpunet import ops
from gpunet.ops.dropout import reference

DIRECTIONS = ("forward", "backward")
IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch")
SHAPES = {"128": (128,), "512": (512,), "14x14x32": (14, 14, 32)}
"""Shapes per image: a hidden layer of the MLP, the CNN's features, and a map."""
P = 0.2


def of(module: Any, direction: str, a: Any) -> Call:
    if direction == "forward":
        return lambda: module.dropout(a.x, P, seed=1, step=2, stream=16)
    return lambda: module.dropout_backward(a.dy, a.mask, P)


def expression(direction: str, xp: Any, a: Any) -> Call:
    scale = 1 / (1 - P)
    if direction == "backward":
        return lambda: a.dy * a.mask * np.float32(scale)
    rng = xp.random.default_rng(1)

    def forward() -> Any:
        mask = rng.random(a.x.shape, dtype=np.float32) >= P
        return a.x * mask * np.float32(scale), mask

    return forward


def torchs(direction: str, torch: Any, a: Any, variant: str) -> Call:
    if direction == "forward":
        return lambda: torch.ops.aten.native_dropout(a.x, P, True)
    mask = a.mask.bool()
    return lambda: torch.ops.aten.native_dropout_backward(a.dy, mask, 1 / (1 - P))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_dropout(
    shape: str, direction: str, implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    x, dy = rng.standard_normal((2, batch, *SHAPES[shape]), dtype=np.float32)
    mask = (rng.random(x.shape) >= P).astype(np.uint8)

    def oracle() -> np.ndarray:
        return np.zeros(x.shape) if direction == "forward" else dy.astype(np.float64) * mask / (1 - P)

    problem = Problem(
        op="dropout",
        shape=shape,
        direction=direction,
        batch=batch,
        arrays={"x": x, "dy": dy, "mask": mask},
        bytes_moved=2 * nbytes(x) + mask.size,
        flops=2 * x.size,
        ours=partial(of, ops, direction),
        expression=partial(expression, direction),
        reference=partial(of, reference, direction),
        reference_seconds=x.size * 1e-5 if direction == "forward" else x.size * 1e-8,
        pytorch=partial(torchs, direction),
        oracle=oracle,
        read=lambda result: masked(x, result) if direction == "forward" else result,
    )
    if direction == "forward":
        _, kept = on_host(prepare(problem, implementation)())
        spread = math.sqrt(P * (1 - P) / x.size)
        assert abs(kept.astype(bool).mean() - (1 - P)) < 6 * spread  # one in 500 million by chance
    contest(problem, implementation)


def masked(x: np.ndarray, result: Any) -> np.ndarray:
    """The difference between y and x with the implementation's own mask applied."""
    y, kept = on_host(result)
    return y - x * kept.astype(bool) * np.float32(1 / (1 - P))
