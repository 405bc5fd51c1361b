"""Convolution, forward and both gradients, against PyTorch at the network's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.conftest import NETWORK
from gpunet.ops import conv2d, conv2d_backward
from tests.support import assert_close, sum_scale, torch_or_skip

DIRECTIONS = ("forward", "dx", "dweight")


def gpunet_calls(x: np.ndarray, weight: np.ndarray, dy: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    return {
        "forward": lambda: conv2d(x, weight, padding=1),
        "dx": lambda: conv2d_backward(dy, x, weight, padding=1, needs=("x",))[0],
        "dweight": lambda: conv2d_backward(dy, x, weight, padding=1, needs=("weight",))[1],
    }


def torch_calls(x: np.ndarray, weight: np.ndarray, dy: np.ndarray) -> dict[str, Callable[[], Any]]:
    torch = torch_or_skip()
    tx = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    tw = torch.from_numpy(weight).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last).requires_grad_()
    tdy = torch.from_numpy(dy).permute(0, 3, 1, 2)
    ty = torch.nn.functional.conv2d(tx, tw, padding=1)

    def forward() -> Any:
        with torch.no_grad():
            return torch.nn.functional.conv2d(tx, tw, padding=1).permute(0, 2, 3, 1)

    def dx() -> Any:
        return torch.autograd.grad(ty, tx, tdy, retain_graph=True)[0].permute(0, 2, 3, 1)

    def dweight() -> Any:
        return torch.autograd.grad(ty, tw, tdy, retain_graph=True)[0].permute(2, 3, 1, 0)

    return {"forward": forward, "dx": dx, "dweight": dweight}


CONTESTANTS = {"gpunet": gpunet_calls, "pytorch": torch_calls}


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layer", NETWORK)
def test_conv2d(
    layer: str,
    direction: str,
    contestant: str,
    batch: int,
    rng: np.random.Generator,
    measure: Callable[..., Any],
    benchmark: Any,
) -> None:
    channels, filters, size = NETWORK[layer]
    x = rng.standard_normal((batch, size, size, channels), dtype=np.float32)
    weight = rng.standard_normal((3, 3, channels, filters), dtype=np.float32)
    dy = rng.standard_normal((batch, size, size, filters), dtype=np.float32)
    benchmark.group = f"conv2d-{direction}-N{batch}-{layer}"
    flops = 2 * batch * size * size * 9 * channels * filters
    result = np.asarray(measure(CONTESTANTS[contestant](x, weight, dy)[direction], flops=flops))

    # The same sums in float64 by one dense product over the patches.
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    if direction == "forward":
        expected, terms = np.tensordot(windows, weight.astype(np.float64), 3), 9 * channels
    elif direction == "dweight":
        expected, terms = np.tensordot(windows, dy.astype(np.float64), ((0, 1, 2), (0, 1, 2))), batch * size * size
    else:
        flipped = weight[::-1, ::-1].transpose(0, 1, 3, 2).astype(np.float64)
        padded = np.pad(dy.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
        expected, terms = np.tensordot(windows, flipped, 3), 9 * filters
    assert_close(result, expected, terms=terms, dtype=np.float32, scale=sum_scale(expected, terms))
