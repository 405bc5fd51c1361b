"""The timings of convolutions on a GPU: what they count, time and say, as far as a CPU shows it."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

from bench import gpu_convolutions
from bench.conftest import NETWORK
from bench.gpu_convolutions import Clock, convolutions, ours, torchs
from bench.roofline import useful_flops
from gpunet.backend import CPU
from gpunet.ops.geometry import Conv2dGeometry

SMALL = {"conv": (3, 4, 2)}
ONCE = {"calls": 1, "repeats": 1, "rounds": 1}


def geometry(layer: str) -> Conv2dGeometry:
    channels, filters, size = NETWORK[layer]
    return Conv2dGeometry.of((256, size, size, channels), (3, 3, channels, filters), padding=1)


def test_the_padding_does_not_count() -> None:
    """On a map of one pixel one of nine taps is needed; on 3 x 3 pixels 49 of 81."""
    assert useful_flops(geometry("conv5-256x512@1")) == 2 * 256 * 256 * 512
    assert useful_flops(geometry("conv4-128x256@3")) == 2 * 256 * 49 * 128 * 256


def test_lines_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x 16 of 36 taps, 3 x 4 channels: 2 * 1 * 16 * 12 operations a call, at 2 and 4 us."""
    monkeypatch.setattr(Clock, "warm_and_cold", lambda self, call: (2.0, 4.0))
    monkeypatch.setitem(sys.modules, "torch", None)
    found = convolutions(CPU, 1000, SMALL)
    expected = "2.0 us (0.19 TFLOP/s) with a warm L2, 4.0 us (0.10) with a cold one"
    assert found == {
        **{f"conv {direction} N=1000, float32": expected for direction in ("forward", "dx", "dweight")},
        "PyTorch": "not installed",
    }


def test_the_time_of_the_overwriting_is_not_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(Clock, "overwrite", lambda self: done.append("overwrite"))
    clock = Clock(CPU, calls=2, repeats=3, rounds=1)
    times = iter([5.0, 70.0, 60.0])
    timed = clock.microseconds

    def pretended(call: Any) -> float:
        timed(call)
        return next(times)

    monkeypatch.setattr(clock, "microseconds", pretended)
    assert clock.warm_and_cold(lambda: done.append("call")) == (5.0, 10.0)
    calls = 2 * (3 + 3)
    assert done == ["call"] * calls + ["overwrite", "call"] * calls + ["overwrite"] * calls


def test_pytorch_computes_the_same_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[peers]'")
    monkeypatch.setattr(gpu_convolutions, "_L2_BYTES", 4096)
    rng = np.random.default_rng(0)
    shapes = (2, 5, 5, 3), (3, 3, 3, 4), (2, 5, 5, 4)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    mine, peers = ours(CPU, *arrays), torchs(torch, "cpu", *arrays)
    for direction, axes in (("forward", (0, 2, 3, 1)), ("dx", (0, 2, 3, 1)), ("dweight", (2, 3, 1, 0))):
        found: Any = mine[direction]()
        found = next(part for part in found if part is not None) if isinstance(found, tuple) else found
        peer: Any = peers[direction]()
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, peer.numpy().transpose(axes), rtol=1e-4, atol=1e-4)
    lines = convolutions(CPU, 2, SMALL, **ONCE)
    number = r"[\d.]+ us \([\d.]+ TFLOP/s\) with a warm L2, [\d.]+ us \([\d.]+\) with a cold one"
    assert re.fullmatch(f"{number}; PyTorch: {number}", lines["conv dx N=2, float32"])
