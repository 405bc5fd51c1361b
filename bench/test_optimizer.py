"""Optimiser updates and the moving average of the weights, each one pass over a model's flat buffer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem, nbytes
from gpunet import ops
from gpunet.ops.optimizer import reference

IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch", "pytorch-fused")
SIZES = {"MLP 109,386": 109_386, "CNN 1,574,122": 1_574_122}
"""Parameters of the default models."""
RULES = ("sgd", "adam", "adamw", "ema")
LR, MOMENTUM, BETA1, BETA2, EPS, DECAY, AVERAGE = 1e-3, 0.9, 0.9, 0.999, 1e-8, 0.01, 0.99
ARRAYS = {"sgd": 5, "adam": 7, "adamw": 7, "ema": 3}
"""Number of reads and writes of arrays the size of the model."""
FLOPS = {"sgd": 4, "adam": 14, "adamw": 15, "ema": 3}
EXAMPLES = 2_000
"""Number of parameters to check against the reference, which updates them one by one."""


def of(module: Any, rule: str, a: Any) -> Call:
    """gpunet's call; like all calls below, it updates the parameters and returns them."""

    def sgd() -> Any:
        module.sgd_update(a.params, a.grads, a.first, lr=LR, momentum=MOMENTUM)
        return a.params

    def adam() -> Any:
        decoupled = rule == "adamw"
        module.adam_update(
            a.params, a.grads, a.first, a.second, lr=LR, step=1, beta1=BETA1, beta2=BETA2, eps=EPS,
            weight_decay=DECAY if decoupled else 0.0, decoupled=decoupled,
        )  # fmt: skip
        return a.params

    def ema() -> Any:
        module.ema_update(a.params, a.grads, decay=AVERAGE)
        return a.params

    return {"sgd": sgd, "adam": adam, "adamw": adam, "ema": ema}[rule]


def expression(rule: str, xp: Any, a: Any) -> Call:
    def sgd() -> Any:
        a.first[...] = MOMENTUM * a.first + a.grads
        a.params[...] = a.params - LR * a.first
        return a.params

    def adam() -> Any:
        a.first[...] = BETA1 * a.first + (1 - BETA1) * a.grads
        a.second[...] = BETA2 * a.second + (1 - BETA2) * a.grads * a.grads
        kept = 1 - LR * DECAY if rule == "adamw" else 1.0
        mean, square = a.first / (1 - BETA1), a.second / (1 - BETA2)
        a.params[...] = kept * a.params - LR * mean / (xp.sqrt(square) + EPS)
        return a.params

    def ema() -> Any:
        a.params[...] = AVERAGE * a.params + (1 - AVERAGE) * a.grads
        return a.params

    return {"sgd": sgd, "adam": adam, "adamw": adam, "ema": ema}[rule]


def torchs(rule: str, torch: Any, a: Any, variant: str) -> Call:
    """All parameters in one tensor, the best case for PyTorch's optimisers."""
    if rule == "ema":
        if variant == "fused":
            pytest.skip("PyTorch has no fused weight averaging")
        return lambda: a.params.lerp_(a.grads, 1 - AVERAGE)
    params = a.params.requires_grad_()
    params.grad = a.grads
    how = {"fused": True} if variant == "fused" else {}
    optimizer = {
        "sgd": lambda: torch.optim.SGD([params], lr=LR, momentum=MOMENTUM, **how),
        "adam": lambda: torch.optim.Adam([params], lr=LR, betas=(BETA1, BETA2), eps=EPS, **how),
        "adamw": lambda: torch.optim.AdamW([params], lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY, **how),
    }[rule]()

    def step() -> Any:
        optimizer.step()
        return params.detach()

    return step


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_optimizer(
    rule: str, shape: str, implementation: str, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    size = SIZES[shape]
    params, grads = rng.standard_normal((2, size), dtype=np.float32)
    zeros = np.zeros(size, np.float32)
    arrays = {"params": params, "grads": grads, "first": zeros, "second": zeros}

    def oracle() -> Any:
        few = type("Arrays", (), {name: array[:EXAMPLES].astype(np.float64) for name, array in arrays.items()})
        return expression(rule, np, few)() if implementation == "reference" else of(reference, rule, few)()

    contest(
        Problem(
            op=rule,
            shape=shape,
            direction="update",
            batch=1,
            arrays=arrays,
            oracle=oracle,
            bytes_moved=ARRAYS[rule] * nbytes(params),
            flops=FLOPS[rule] * size,
            ours=partial(of, ops, rule),
            expression=partial(expression, rule),
            reference=partial(of, reference, rule),
            reference_seconds=size * 2e-6,
            pytorch=partial(torchs, rule),
        ),
        implementation,
    )
