"""The linear layer, forward and the gradients of input and weight."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem, nbytes
from gpunet import ops
from gpunet.ops.linear import reference

DIRECTIONS = ("forward", "dx", "dweight")
IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch")
SHAPES = {"784x128": (784, 128), "128x64": (128, 64), "64x10": (64, 10), "512x10": (512, 10), "1024x1024": (1024, 1024)}
"""Numbers of inputs and outputs: the MLP's three layers, the CNN's last one, and a larger one."""


def of(module: Any, direction: str, a: Any) -> Call:
    if direction == "forward":
        return lambda: module.linear(a.x, a.weight, a.bias)
    need = direction.removeprefix("d")
    place = ("x", "weight").index(need)
    return lambda: module.linear_backward(a.dy, a.x, a.weight, needs=(need,))[place]


def expression(direction: str, xp: Any, a: Any) -> Call:
    return {
        "forward": lambda: a.x @ a.weight + a.bias,
        "dx": lambda: a.dy @ a.weight.T,
        "dweight": lambda: a.x.T @ a.dy,
    }[direction]


def torchs(direction: str, torch: Any, a: Any, variant: str) -> Call:
    weight = a.weight.T.contiguous()  # PyTorch's layout: (out, in)
    return {
        "forward": lambda: torch.nn.functional.linear(a.x, weight, a.bias),
        "dx": lambda: a.dy @ weight,
        "dweight": lambda: a.dy.T @ a.x,
    }[direction]


def read(direction: str, result: Any) -> Any:
    return result.T if direction == "dweight" and type(result).__module__.startswith("torch") else result


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear(
    shape: str, direction: str, implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    inputs, outputs = SHAPES[shape]
    x = rng.standard_normal((batch, inputs), dtype=np.float32)
    weight = rng.standard_normal((inputs, outputs), dtype=np.float32)
    dy = rng.standard_normal((batch, outputs), dtype=np.float32)

    def oracle() -> Any:
        """By einsum, as the other implementations are a plain matrix product, too."""
        doubles = [array.astype(np.float64) for array in (x, weight, dy)]
        formula = {"forward": "ni,io->no", "dx": "no,io->ni", "dweight": "ni,no->io"}[direction]
        first, second = {"forward": (0, 1), "dx": (2, 1), "dweight": (0, 2)}[direction]
        product = np.einsum(formula, doubles[first], doubles[second])
        return product + bias.astype(np.float64) if direction == "forward" else product

    bias = rng.standard_normal(outputs, dtype=np.float32)
    contest(
        Problem(
            op="linear",
            shape=shape,
            direction=direction,
            batch=batch,
            arrays={"x": x, "weight": weight, "dy": dy, "bias": bias},
            oracle=oracle,
            bytes_moved=nbytes(x, weight, dy),
            flops=2 * batch * inputs * outputs,
            terms={"forward": inputs, "dx": outputs, "dweight": batch}[direction],
            sums=True,
            ours=partial(of, ops, direction),
            expression=partial(expression, direction),
            reference=partial(of, reference, direction),
            pytorch=partial(torchs, direction),
            read=partial(read, direction),
        ),
        implementation,
    )
