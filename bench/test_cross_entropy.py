"""Softmax cross-entropy: loss and gradient in one call, as in a training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem, nbytes
from gpunet import ops
from gpunet.ops.cross_entropy import reference

IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch")
CLASSES = {"10 classes": 10, "1000 classes": 1000}


def of(module: Any, a: Any) -> Call:
    return lambda: module.softmax_cross_entropy(a.logits, a.labels)


def expression(xp: Any, a: Any) -> Call:
    rows = xp.arange(len(a.labels))

    def both() -> Any:
        shifted = a.logits - a.logits.max(1, keepdims=True)
        e = xp.exp(shifted)
        total = e.sum(1, keepdims=True)
        loss = (xp.log(total[:, 0]) - shifted[rows, a.labels]).mean()
        gradient = e / total
        gradient[rows, a.labels] -= 1
        return loss, gradient / len(a.labels)

    return both


def torchs(torch: Any, a: Any, variant: str) -> Call:
    """The four kernels of a forward and a backward pass, without autograd's overhead."""
    aten, labels, one = torch.ops.aten, a.labels.long(), torch.ones(())

    def both() -> Any:
        log_p = aten._log_softmax(a.logits, 1, False)
        loss, total = aten.nll_loss_forward(log_p, labels, None, 1, -100)
        dlog_p = aten.nll_loss_backward(one, log_p, labels, None, 1, -100, total)
        return loss, aten._log_softmax_backward_data(dlog_p, log_p, 1, torch.float32)

    return both


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", CLASSES)
def test_softmax_cross_entropy(
    shape: str, implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    classes = CLASSES[shape]
    logits = rng.standard_normal((batch, classes), dtype=np.float32)
    contest(
        Problem(
            op="softmax_cross_entropy",
            shape=shape,
            direction="both",
            batch=batch,
            arrays={"logits": logits, "labels": rng.integers(0, classes, batch, dtype=np.int32)},
            bytes_moved=2 * nbytes(logits) + 4 * batch,
            flops=logits.size * 20,  # an exponential is about 15
            terms=classes,
            ours=partial(of, ops),
            expression=expression,
            reference=partial(of, reference),
            reference_seconds=logits.size * 1e-6 * (2 if classes < 100 else classes / 10),
            pytorch=torchs,
        ),
        implementation,
    )
