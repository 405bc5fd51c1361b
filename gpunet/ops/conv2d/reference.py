"""Convolution by definition: slow, obviously correct, the oracle for all other implementations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gpunet.ops._reference import stored
from gpunet.ops.geometry import Conv2dGeometry, Padding


def _taps(g: Conv2dGeometry) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
    """Each tap (p, q) with the slices of the padded input that it reads, for the channels of each group."""
    for p in range(g.kernel[0]):
        for q in range(g.kernel[1]):
            top, left = p * g.dilation[0], q * g.dilation[1]
            rows = slice(top, top + (g.out_height - 1) * g.stride[0] + 1, g.stride[0])
            columns = slice(left, left + (g.out_width - 1) * g.stride[1] + 1, g.stride[1])
            for group in range(g.groups):
                ci, co = g.in_channels // g.groups, g.out_channels // g.groups
                channels = slice(group * ci, group * ci + ci), slice(group * co, group * co + co)
                yield (p, q), (rows, columns), channels


def _pad(x: np.ndarray, g: Conv2dGeometry) -> np.ndarray:
    top, bottom, left, right = g.padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> np.ndarray:
    """See :func:`gpunet.ops.conv2d.conv2d`."""
    g = Conv2dGeometry.of(x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    padded = _pad(x, g)
    y = np.zeros(g.y_shape, x.dtype)
    for (p, q), (rows, columns), (ci, co) in _taps(g):
        y[..., co] += np.einsum("nijc,co->nijo", padded[:, rows, columns, ci], weight[p, q, :, co])
    return y if bias is None else y + bias


def conv2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    needs: Sequence[str] = ("x", "weight", "bias"),
    out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """See :func:`gpunet.ops.conv2d.conv2d_backward`."""
    g = Conv2dGeometry.of(x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    padded = _pad(x, g)
    dpadded, dweight = np.zeros_like(padded), np.zeros_like(weight)
    for (p, q), (rows, columns), (ci, co) in _taps(g):
        dpadded[:, rows, columns, ci] += np.einsum("nijo,co->nijc", dy[..., co], weight[p, q, :, co])
        dweight[p, q, :, co] += np.einsum("nijc,nijo->co", padded[:, rows, columns, ci], dy[..., co])
    top, _, left, _ = g.padding
    dx = dpadded[:, top : top + g.height, left : left + g.width]
    return (
        dx if "x" in needs else None,
        stored(dweight, out[0]) if "weight" in needs else None,
        stored(dy.sum((0, 1, 2)), out[1]) if "bias" in needs else None,
    )
