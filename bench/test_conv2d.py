"""Convolution, forward and both gradients: the network's five layers and more general cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.conftest import NETWORK
from bench.contest import Call, Problem, from_maps, maps, nbytes
from bench.roofline import useful_flops
from gpunet.ops import conv2d, conv2d_backward
from gpunet.ops.conv2d import reference
from gpunet.ops.geometry import Conv2dGeometry

DIRECTIONS = ("forward", "dx", "dweight")
IMPLEMENTATIONS = ("reference", "numpy", "numba", "cupy", "rawkernel", "pytorch-nchw", "pytorch-nhwc")

GENERAL: dict[str, tuple[tuple[int, int, int], dict[str, int]]] = {
    "3x32@32": ((3, 32, 32), {}),
    "32x64@14-5x5": ((32, 64, 14), {"kernel": 5}),
    "64x128@16-stride2": ((64, 128, 16), {"stride": 2}),
    "64x64@14-dilation2": ((64, 64, 14), {"dilation": 2}),
    "64x64@14-groups4": ((64, 64, 14), {"groups": 4}),
    "128x128@8-1x1": ((128, 128, 8), {"kernel": 1}),
}
SHAPES = {**{name: (sizes, {}) for name, sizes in NETWORK.items()}, **GENERAL}


def tap_slices(g: Conv2dGeometry) -> Iterator[tuple[int, int, slice, slice]]:
    """Each tap of the kernel, with the rows and columns of the padded input that it reads."""
    for p in range(g.kernel[0]):
        for q in range(g.kernel[1]):
            top, left = p * g.dilation[0], q * g.dilation[1]
            rows = slice(top, top + (g.out_height - 1) * g.stride[0] + 1, g.stride[0])
            yield p, q, rows, slice(left, left + (g.out_width - 1) * g.stride[1] + 1, g.stride[1])


def padded(xp: Any, x: Any, g: Conv2dGeometry) -> Any:
    top, bottom, left, right = g.padding
    return xp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def expected(g: Conv2dGeometry, direction: str, x: np.ndarray, weight: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """In float64: one matrix product per tap and group."""
    x, weight, dy = (array.astype(np.float64) for array in (x, weight, dy))
    source = padded(np, x, g)
    y, dsource, dweight = np.zeros(g.y_shape), np.zeros_like(source), np.zeros_like(weight)
    inner, outer = g.in_channels // g.groups, g.out_channels // g.groups
    for p, q, rows, columns in tap_slices(g):
        for group in range(g.groups):
            ci, co = slice(group * inner, (group + 1) * inner), slice(group * outer, (group + 1) * outer)
            if direction == "forward":
                y[..., co] += source[:, rows, columns, ci] @ weight[p, q, :, co]
            elif direction == "dx":
                dsource[:, rows, columns, ci] += dy[..., co] @ weight[p, q, :, co].T
            else:
                met = source[:, rows, columns, ci].reshape(-1, inner)
                dweight[p, q, :, co] = met.T @ dy[..., co].reshape(-1, outer)
    top, _, left, _ = g.padding
    dx = dsource[:, top : top + g.height, left : left + g.width]
    return {"forward": y, "dx": dx, "dweight": dweight}[direction]


def im2col(g: Conv2dGeometry, direction: str, xp: Any, a: Any) -> Call:
    """im2col and one matrix product; for dx, the gradients of the patches are accumulated tap by tap."""
    n, i, j, k = (*g.y_shape[:3], g.groups)
    taps, inner, outer = g.kernel[0] * g.kernel[1], g.in_channels // k, g.out_channels // k

    def patches() -> Any:
        source = padded(xp, a.x, g)
        found = xp.stack([source[:, rows, columns] for _, _, rows, columns in tap_slices(g)], 3)
        return found.reshape(n * i * j, taps, k, inner).transpose(2, 0, 1, 3).reshape(k, n * i * j, taps * inner)

    def by_group() -> Any:
        return a.weight.reshape(taps * inner, k, outer).transpose(1, 0, 2)

    def gradients() -> Any:
        return a.dy.reshape(n * i * j, k, outer).transpose(1, 0, 2)

    def forward() -> Any:
        return xp.matmul(patches(), by_group()).transpose(1, 0, 2).reshape(g.y_shape)

    def dweight() -> Any:
        products = xp.matmul(patches().transpose(0, 2, 1), gradients())
        return products.transpose(1, 0, 2).reshape(g.weight_shape)

    def dx() -> Any:
        products = xp.matmul(gradients(), by_group().transpose(0, 2, 1)).reshape(k, n, i, j, taps, inner)
        dsource = xp.zeros_like(padded(xp, a.x, g))
        for tap, (_, _, rows, columns) in enumerate(tap_slices(g)):
            dsource[:, rows, columns] += products[:, :, :, :, tap].transpose(1, 2, 3, 0, 4).reshape(n, i, j, -1)
        top, _, left, _ = g.padding
        return dsource[:, top : top + g.height, left : left + g.width]

    return {"forward": forward, "dx": dx, "dweight": dweight}[direction]


def definition(function: Any, gradient: Any, direction: str, options: dict[str, int], a: Any) -> Call:
    """The call of gpunet's public op or its reference."""
    if direction == "forward":
        return lambda: function(a.x, a.weight, **options)
    need = direction.removeprefix("d")
    place = ("x", "weight").index(need)
    return lambda: gradient(a.dy, a.x, a.weight, needs=(need,), **options)[place]


def torchs(g: Conv2dGeometry, direction: str, torch: Any, a: Any, layout: str) -> Call:
    x, dy = maps(torch, a.x, layout), maps(torch, a.dy, layout)
    memory = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    weight = a.weight.permute(3, 2, 0, 1).contiguous(memory_format=memory)
    options = list(g.stride), [g.padding[0], g.padding[2]], list(g.dilation)
    if direction == "forward":
        return lambda: torch.nn.functional.conv2d(x, weight, None, *options, g.groups)
    # The operator that autograd calls, without its overhead.
    backward, mask = torch.ops.aten.convolution_backward, [direction == "dx", direction == "dweight", False]
    place = mask.index(True)
    return lambda: backward(dy, x, weight, None, *options, False, [0, 0], g.groups, mask)[place]


def read(direction: str, result: Any) -> Any:
    if direction == "dweight" and type(result).__module__.startswith("torch"):
        return result.permute(2, 3, 1, 0)
    return from_maps(result)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_conv2d(
    shape: str, direction: str, implementation: str, batch: int, rng: np.random.Generator, contest: Callable[..., None]
) -> None:
    (channels, filters, size), given = SHAPES[shape]
    kernel, groups, dilation = given.get("kernel", 3), given.get("groups", 1), given.get("dilation", 1)
    options = {
        "stride": given.get("stride", 1),
        "padding": dilation * (kernel // 2),
        "dilation": dilation,
        "groups": groups,
    }
    x = rng.standard_normal((batch, size, size, channels), dtype=np.float32)
    weight = rng.standard_normal((kernel, kernel, channels // groups, filters), dtype=np.float32)
    g = Conv2dGeometry.of(x.shape, weight.shape, **options)
    dy = rng.standard_normal(g.y_shape, dtype=np.float32)
    terms = {
        "forward": kernel * kernel * channels // groups,
        "dx": kernel * kernel * filters // groups,
        "dweight": g.batch * g.out_height * g.out_width,
    }[direction]
    contest(
        Problem(
            op="conv2d",
            shape=shape,
            direction=direction,
            batch=batch,
            arrays={"x": x, "weight": weight, "dy": dy},
            oracle=lambda: expected(g, direction, x, weight, dy),
            flops=useful_flops(g),
            bytes_moved=nbytes(x, weight, dy),
            terms=terms,
            sums=True,
            amplification=8.0 if (kernel, size) == (3, 14) else 1.0,  # of Winograd's 7x7 tiles
            ours=partial(definition, conv2d, conv2d_backward, direction, options),
            expression=partial(im2col, g, direction),
            reference=partial(definition, reference.conv2d, reference.conv2d_backward, direction, options),
            # einsum runs at about one GFLOP/s; the backward pass computes both gradients
            reference_seconds=g.flops / 1e9 * (1 if direction == "forward" else 2),
            pytorch=partial(torchs, g, direction),
            read=partial(read, direction),
        ),
        implementation,
    )
