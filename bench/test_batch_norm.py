"""Batch norm in training mode, forward and backward; alone and fused with max pooling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem, from_maps, maps, nbytes
from gpunet import ops
from gpunet.ops.batchnorm import reference
from gpunet.ops.batchnorm_pool import reference as pool_reference

DIRECTIONS = ("forward", "backward")
IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch-nchw", "pytorch-nhwc")
MAPS = {"32@28": (32, 28), "64@14": (64, 14), "128@7": (128, 7), "256@3": (256, 3)}
"""Channels and map sizes of the network's blocks with pooling, where the two ops are fused."""
GENERAL = {"64@32": (64, 32)}
EPS = 1e-5
MOMENTUM = 0.1


def batch_arrays(rng: np.random.Generator, batch: int, channels: int, size: int, out: int) -> dict[str, np.ndarray]:
    vectors = rng.standard_normal((2, channels), dtype=np.float32)
    return {
        "x": rng.standard_normal((batch, size, size, channels), dtype=np.float32),
        "dy": rng.standard_normal((batch, out, out, channels), dtype=np.float32),
        "gamma": vectors[0] + 2,
        "beta": vectors[1],
        "mean": np.zeros(channels, np.float32),
        "var": np.ones(channels, np.float32),
    }


def of(forward: Any, backward: Any, direction: str, a: Any) -> Call:
    """The call of gpunet's op or its reference; returns y and the running statistics, or the gradients."""
    options = {"training": True, "momentum": MOMENTUM, "eps": EPS}
    if direction == "forward":
        return lambda: (forward(a.x, a.gamma, a.beta, a.mean, a.var, **options)[0], a.mean, a.var)
    saved = forward(a.x, a.gamma, a.beta, a.mean, a.var, **options)[1]
    return lambda: backward(a.dy, a.x, a.gamma, saved)


def normalise(xp: Any, a: Any) -> tuple[Any, Any, Any]:
    mean = a.x.mean((0, 1, 2))
    centred = a.x - mean
    var = (centred * centred).mean((0, 1, 2))
    inv_std = 1 / xp.sqrt(var + EPS)
    return centred * inv_std, inv_std, (mean, var)


def gradients(xp: Any, a: Any, normalised: Any, inv_std: Any, dy: Any) -> tuple[Any, Any, Any]:
    dgamma, dbeta = (dy * normalised).sum((0, 1, 2)), dy.sum((0, 1, 2))
    rows = dy.size // dy.shape[-1]
    dx = a.gamma * inv_std * (dy - dbeta / rows - normalised * (dgamma / rows))
    return dx, dgamma, dbeta


def move_statistics(a: Any, mean: Any, var: Any) -> None:
    rows = a.x.size // a.x.shape[-1]
    a.mean += MOMENTUM * (mean - a.mean)
    a.var += MOMENTUM * (var * (rows / (rows - 1)) - a.var)


def expression(direction: str, xp: Any, a: Any) -> Call:
    def forward() -> Any:
        normalised, _, statistics = normalise(xp, a)
        move_statistics(a, *statistics)
        return a.gamma * normalised + a.beta, a.mean, a.var

    if direction == "forward":
        return forward
    normalised, inv_std, _ = normalise(xp, a)
    return lambda: gradients(xp, a, normalised, inv_std, a.dy)


def torchs(direction: str, torch: Any, a: Any, layout: str) -> Call:
    """The backward pass is the operator that autograd calls, without its overhead."""
    aten, x, dy = torch.ops.aten, maps(torch, a.x, layout), maps(torch, a.dy, layout)

    def forward() -> Any:
        return aten.native_batch_norm(x, a.gamma, a.beta, a.mean, a.var, True, MOMENTUM, EPS)

    if direction == "forward":
        return lambda: (forward()[0], a.mean, a.var)
    _, mean, inv_std = forward()
    mask = [True, True, True]
    return lambda: aten.native_batch_norm_backward(dy, x, a.gamma, a.mean, a.var, mean, inv_std, True, EPS, mask)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", [*MAPS, *GENERAL])
def test_batch_norm(
    shape: str, direction: str, implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    channels, size = {**MAPS, **GENERAL}[shape]
    arrays = batch_arrays(rng, batch, channels, size, size)
    x, rows = arrays["x"], batch * size * size
    contest(
        Problem(
            op="batch_norm",
            shape=shape,
            direction=direction,
            batch=batch,
            arrays=arrays,
            bytes_moved=nbytes(x) * (2 if direction == "forward" else 3),
            flops=x.size * (7 if direction == "forward" else 10),
            terms=rows,
            sums=direction == "backward",
            ours=partial(of, ops.batch_norm, ops.batch_norm_backward, direction),
            expression=partial(expression, direction),
            reference=partial(of, reference.batch_norm, reference.batch_norm_backward, direction),
            reference_seconds=x.size * 1e-7,
            pytorch=partial(torchs, direction),
            read=from_maps,
        ),
        implementation,
    )


def windows(x: Any, size: int) -> list[Any]:
    return [x[:, p : size * 2 : 2, q : size * 2 : 2] for p in range(2) for q in range(2)]


def pool_expression(direction: str, xp: Any, a: Any) -> Call:
    out = a.dy.shape[1]

    def forward() -> Any:
        normalised, _, statistics = normalise(xp, a)
        move_statistics(a, *statistics)
        return xp.stack(windows(a.gamma * normalised + a.beta, out)).max(0), a.mean, a.var

    if direction == "forward":
        return forward
    normalised, inv_std, _ = normalise(xp, a)
    argmax = xp.stack(windows(a.gamma * normalised + a.beta, out)).argmax(0)

    def backward() -> Any:
        dmap = xp.zeros_like(a.x)
        for tap, view in enumerate(windows(dmap, out)):
            view[...] = a.dy * (argmax == tap)
        return gradients(xp, a, normalised, inv_std, dmap)

    return backward


def pool_torch(direction: str, torch: Any, a: Any, layout: str) -> Call:
    """Two ops, as in PyTorch."""
    aten, x, dy = torch.ops.aten, maps(torch, a.x, layout), maps(torch, a.dy, layout)
    window = [2, 2], [2, 2], [0, 0], [1, 1], False

    def forward() -> Any:
        y, mean, inv_std = aten.native_batch_norm(x, a.gamma, a.beta, a.mean, a.var, True, MOMENTUM, EPS)
        return (y, mean, inv_std, *aten.max_pool2d_with_indices(y, *window))

    if direction == "forward":
        return lambda: (forward()[3], a.mean, a.var)
    y, mean, inv_std, _, indices = forward()
    mask = [True, True, True]

    def backward() -> Any:
        dmap = aten.max_pool2d_with_indices_backward(dy, y, *window, indices)
        return aten.native_batch_norm_backward(dmap, x, a.gamma, a.mean, a.var, mean, inv_std, True, EPS, mask)

    return backward


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", MAPS)
def test_batch_norm_max_pool(
    shape: str, direction: str, implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    channels, size = MAPS[shape]
    arrays = batch_arrays(rng, batch, channels, size, size // 2)
    x, dy = arrays["x"], arrays["dy"]
    contest(
        Problem(
            op="batch_norm_max_pool",
            shape=shape,
            direction=direction,
            batch=batch,
            arrays=arrays,
            # Forward: x, y and one byte per argmax; backward: x, dy, those bytes and dx.
            bytes_moved=nbytes(x) * (1 if direction == "forward" else 2) + nbytes(dy) + dy.size,
            flops=x.size * (8 if direction == "forward" else 10),
            terms=batch * size * size,
            sums=direction == "backward",
            ours=partial(of, ops.batch_norm_max_pool, ops.batch_norm_max_pool_backward, direction),
            expression=partial(pool_expression, direction),
            reference=partial(
                of, pool_reference.batch_norm_max_pool, pool_reference.batch_norm_max_pool_backward, direction
            ),
            reference_seconds=x.size * 1e-7,
            pytorch=partial(pool_torch, direction),
            read=from_maps,
        ),
        implementation,
    )
