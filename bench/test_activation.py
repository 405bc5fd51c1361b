"""Activations, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import special

from bench.contest import Call, Problem, nbytes
from gpunet import ops
from gpunet.ops.activation import reference

DIRECTIONS = ("forward", "backward")
IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch")
SHAPES = {"128": (128,), "14x14x32": (14, 14, 32), "32x32x64": (32, 32, 64)}
"""Shapes per image: a hidden layer of the MLP, the CNN's first block after pooling, and a larger map."""

FLOPS = {"relu": 1, "leaky_relu": 2, "tanh": 10, "gelu": 20}
"""Rough count per element; all are bound by memory or by the latency of a polynomial."""
EXAMPLES = 2_000
"""Number of elements to check against the reference, which computes them one by one."""


def erf(xp: Any) -> Any:
    if xp is np:
        return special.erf
    from cupyx.scipy.special import erf  # type: ignore[import-not-found]

    return erf


def expression(name: str, direction: str, xp: Any, a: Any) -> Call:
    x, dy = a.x, a.dy
    half, slope, density = math.sqrt(0.5), 0.01, 1 / math.sqrt(2 * math.pi)
    if (name, direction) == ("tanh", "backward"):
        y = xp.tanh(x)
        return lambda: dy * (1 - y * y)
    calls: dict[tuple[str, str], Call] = {
        ("relu", "forward"): lambda: xp.maximum(x, 0),
        ("relu", "backward"): lambda: dy * (x > 0),
        ("leaky_relu", "forward"): lambda: xp.where(x > 0, x, slope * x),
        ("leaky_relu", "backward"): lambda: xp.where(x > 0, dy, slope * dy),
        ("tanh", "forward"): lambda: xp.tanh(x),
        ("gelu", "forward"): lambda: x * (1 + erf(xp)(x * half)) / 2,
        ("gelu", "backward"): lambda: dy * (
            (1 + erf(xp)(x * half)) / 2 + x * xp.exp(-x * x / 2) * density
        ),
    }  # fmt: skip
    return calls[name, direction]


def of(module: Any, name: str, direction: str, a: Any) -> Call:
    if direction == "forward":
        return lambda: getattr(module, name)(a.x)
    saved = module.tanh(a.x) if name == "tanh" else a.x
    return lambda: getattr(module, f"{name}_backward")(a.dy, saved)


def torchs(name: str, direction: str, torch: Any, a: Any, variant: str) -> Call:
    """The backward passes are the operators that autograd calls, without its overhead."""
    aten, x, dy = torch.ops.aten, a.x, a.dy
    y = torch.tanh(x)
    return {
        ("relu", "forward"): lambda: torch.relu(x),
        ("relu", "backward"): lambda: aten.threshold_backward(dy, x, 0),
        ("leaky_relu", "forward"): lambda: torch.nn.functional.leaky_relu(x, 0.01),
        ("leaky_relu", "backward"): lambda: aten.leaky_relu_backward(dy, x, 0.01, False),
        ("tanh", "forward"): lambda: torch.tanh(x),
        ("tanh", "backward"): lambda: aten.tanh_backward(dy, y),
        ("gelu", "forward"): lambda: torch.nn.functional.gelu(x),
        ("gelu", "backward"): lambda: aten.gelu_backward(dy, x),
    }[name, direction]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FLOPS)
def test_activation(
    name: str,
    shape: str,
    direction: str,
    implementation: str,
    batch: int,
    rng: np.random.Generator,
    contest: Callable[..., None],
) -> None:
    x, dy = rng.standard_normal((2, batch, *SHAPES[shape]), dtype=np.float32)

    def oracle() -> Any:
        few = type("Arrays", (), {"x": x.ravel()[:EXAMPLES].astype(float), "dy": dy.ravel()[:EXAMPLES].astype(float)})
        if implementation == "reference":
            return expression(name, direction, np, few)()
        return of(reference, name, direction, few)()

    contest(
        Problem(
            op=name,
            shape=shape,
            direction=direction,
            batch=batch,
            arrays={"x": x, "dy": dy},
            bytes_moved=nbytes(x) * (2 if direction == "forward" else 3),
            flops=x.size * FLOPS[name],
            ours=partial(of, ops, name, direction),
            expression=partial(expression, name, direction),
            reference=partial(of, reference, name, direction),
            reference_seconds=x.size * 1.5e-6,
            pytorch=partial(torchs, name, direction),
            oracle=oracle,
            read=lambda result: result.reshape(-1),
        ),
        implementation,
    )
