"""Pooling, forward and backward: maximum, average and global average."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.contest import Call, Problem, from_maps, maps, nbytes
from gpunet import ops
from gpunet.ops.geometry import Pool2dGeometry
from gpunet.ops.pool2d import reference

DIRECTIONS = ("forward", "backward")
IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch-nchw", "pytorch-nhwc")

WINDOWS: dict[str, tuple[int, int, dict[str, int]]] = {
    "32@28": (32, 28, {"kernel_size": 2}),
    "64@14": (64, 14, {"kernel_size": 2}),
    "128@7": (128, 7, {"kernel_size": 2}),
    "256@3": (256, 3, {"kernel_size": 2}),
    "64@32-3x3-stride2": (64, 32, {"kernel_size": 3, "stride": 2, "padding": 1}),
}
"""Channels, map size and options: the network's four pooling layers, then overlapping windows."""
MAPS = {"512@3": (512, 3), "512@7": (512, 7)}
"""For global average pooling: the network with ``pooling="global_average"``, and a larger network."""


def strided(g: Pool2dGeometry, source: Any) -> list[Any]:
    """For each tap of the window, a view of the elements of the padded map that it reads."""
    return [
        source[:, p : p + (g.out_height - 1) * g.stride[0] + 1 : g.stride[0],
               q : q + (g.out_width - 1) * g.stride[1] + 1 : g.stride[1]]
        for p in range(g.kernel[0]) for q in range(g.kernel[1])
    ]  # fmt: skip


def pad(g: Pool2dGeometry, xp: Any, x: Any, value: float) -> Any:
    top, bottom, left, right = g.padding
    if not any(g.padding):
        return x
    return xp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=value)


def spread(g: Pool2dGeometry, xp: Any, parts: Callable[[int], Any], dtype: Any) -> Any:
    """The gradient of the map, accumulated from the gradients of the taps."""
    top, bottom, left, right = g.padding
    dsource = xp.zeros((g.batch, g.height + top + bottom, g.width + left + right, g.channels), dtype)
    for tap, view in enumerate(strided(g, dsource)):
        view += parts(tap)
    return dsource[:, top : top + g.height, left : left + g.width]


def max_expression(g: Pool2dGeometry, direction: str, xp: Any, a: Any) -> Call:
    def forward() -> Any:
        windows = xp.stack(strided(g, pad(g, xp, a.x, -np.inf)))
        return windows.max(0), windows.argmax(0).astype(np.uint8)

    if direction == "forward":
        return forward
    argmax = forward()[1]
    return lambda: spread(g, xp, lambda tap: a.dy * (argmax == tap), a.dy.dtype)


def avg_expression(g: Pool2dGeometry, direction: str, xp: Any, a: Any) -> Call:
    taps = g.kernel[0] * g.kernel[1]

    def forward() -> Any:
        return sum(strided(g, pad(g, xp, a.x, 0.0))) / taps

    def backward() -> Any:
        share = a.dy / taps
        return spread(g, xp, lambda tap: share, a.dy.dtype)

    return forward if direction == "forward" else backward


def max_of(module: Any, options: dict[str, int], direction: str, a: Any) -> Call:
    if direction == "forward":
        return lambda: module.max_pool2d(a.x, **options)
    argmax = module.max_pool2d(a.x, **options)[1]
    return lambda: module.max_pool2d_backward(a.dy, argmax, a.x.shape, **options)


def avg_of(module: Any, options: dict[str, int], direction: str, a: Any) -> Call:
    if direction == "forward":
        return lambda: module.avg_pool2d(a.x, **options)
    return lambda: module.avg_pool2d_backward(a.dy, a.x.shape, **options)


def max_torch(g: Pool2dGeometry, direction: str, torch: Any, a: Any, layout: str) -> Call:
    """With the indices of the maxima, as in training; the backward pass is the operator that autograd calls."""
    aten, x, dy = torch.ops.aten, maps(torch, a.x, layout), maps(torch, a.dy, layout)
    options = list(g.kernel), list(g.stride), [g.padding[0], g.padding[2]], [1, 1], False
    if direction == "forward":
        return lambda: aten.max_pool2d_with_indices(x, *options)
    indices = aten.max_pool2d_with_indices(x, *options)[1]
    return lambda: aten.max_pool2d_with_indices_backward(dy, x, *options, indices)


def avg_torch(g: Pool2dGeometry, direction: str, torch: Any, a: Any, layout: str) -> Call:
    aten, x, dy = torch.ops.aten, maps(torch, a.x, layout), maps(torch, a.dy, layout)
    options = list(g.kernel), list(g.stride), [g.padding[0], g.padding[2]], False, True, None
    if direction == "forward":
        return lambda: aten.avg_pool2d(x, *options)
    return lambda: aten.avg_pool2d_backward(dy, x, *options)


def values_only(direction: str, kind: str, result: Any) -> Any:
    """Without the indices of the maxima, whose numbering depends on the implementation."""
    return from_maps(result[0] if (kind, direction) == ("max", "forward") else result)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", WINDOWS)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pool2d(
    kind: str,
    shape: str,
    direction: str,
    implementation: str,
    batch: int,
    rng: np.random.Generator,
    contest: Callable[..., None],
) -> None:
    channels, size, options = WINDOWS[shape]
    x = rng.standard_normal((batch, size, size, channels), dtype=np.float32)
    given = {name: value for name, value in options.items() if name != "kernel_size"}
    g = Pool2dGeometry.of(x.shape, options["kernel_size"], **given)
    dy = rng.standard_normal(g.y_shape, dtype=np.float32)
    expression, module, torchs = {
        "max": (max_expression, max_of, max_torch),
        "avg": (avg_expression, avg_of, avg_torch),
    }[kind]

    places = dy.size if kind == "max" else 0  # one byte each
    contest(
        Problem(
            op=f"{kind}_pool2d",
            shape=shape,
            direction=direction,
            batch=batch,
            arrays={"x": x, "dy": dy},
            bytes_moved=nbytes(x, dy) + places,
            flops=dy.size * g.kernel[0] * g.kernel[1],
            terms=g.kernel[0] * g.kernel[1],
            ours=partial(module, ops, options, direction),
            expression=partial(expression, g, direction),
            reference=partial(module, reference, options, direction),
            reference_seconds=x.size * g.kernel[0] * g.kernel[1] * 5e-9,
            pytorch=partial(torchs, g, direction),
            read=partial(values_only, direction, kind),
        ),
        implementation,
    )


def global_of(module: Any, direction: str, a: Any) -> Call:
    if direction == "forward":
        return lambda: module.global_avg_pool2d(a.x)
    return lambda: module.global_avg_pool2d_backward(a.dy, a.x.shape)


def global_expression(direction: str, xp: Any, a: Any) -> Call:
    _, height, width, _ = a.x.shape
    if direction == "forward":
        return lambda: a.x.sum((1, 2)) / (height * width)
    return lambda: xp.zeros_like(a.x) + (a.dy / (height * width))[:, None, None]


def global_torch(direction: str, torch: Any, a: Any, layout: str) -> Call:
    x, dy = maps(torch, a.x, layout), a.dy
    if direction == "forward":
        return lambda: x.mean((2, 3))
    area = x.shape[2] * x.shape[3]
    # What autograd does for a mean, with the gradient materialised for the next op.
    memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    return lambda: (dy / area)[:, :, None, None].expand(x.shape).contiguous(memory_format=memory)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", MAPS)
def test_global_avg_pool2d(
    shape: str, direction: str, implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    channels, size = MAPS[shape]
    x = rng.standard_normal((batch, size, size, channels), dtype=np.float32)
    dy = rng.standard_normal((batch, channels), dtype=np.float32)

    contest(
        Problem(
            op="global_avg_pool2d",
            shape=shape,
            direction=direction,
            batch=batch,
            arrays={"x": x, "dy": dy},
            bytes_moved=nbytes(x, dy),
            flops=x.size,
            terms=size * size,
            ours=partial(global_of, ops, direction),
            expression=partial(global_expression, direction),
            reference=partial(global_of, reference, direction),
            pytorch=partial(global_torch, direction),
            read=from_maps,
        ),
        implementation,
    )
