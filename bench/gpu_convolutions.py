"""The network's convolutions on a GPU, beside cuDNN's where PyTorch is installed: times and FLOP rates.

Many calls make up one CUDA graph, so that launches cost next to nothing. With a warm L2 cache each call finds its
arrays where the one before left them, in the cache if they fit; for a cold one the cache is overwritten before each
call, and the time that this takes is subtracted. The rate counts the operations that are needed, not those on the
padding, which the kernels skip.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from bench.conftest import NETWORK
from bench.roofline import useful_flops
from gpunet import ops
from gpunet.backend import Backend
from gpunet.ops.geometry import Conv2dGeometry

DIRECTIONS = ("forward", "dx", "dweight")
_L2_BYTES = 256 * 2**20
"""Written to have nothing else in the L2 cache: several times the largest."""

Call = Callable[[], object]


class Clock:
    """Times calls of gpunet on `backend`, many to a graph."""

    def __init__(self, backend: Backend, *, calls: int = 20, repeats: int = 5, rounds: int = 7) -> None:
        self.backend, self.calls, self.repeats, self.rounds = backend, calls, repeats, rounds

    def overwrite(self) -> object:
        return self.backend.zeros(_L2_BYTES // 4)

    def repeated(self, call: Call) -> Call:
        """`call` so many times, as one graph."""

        def step() -> None:
            for _ in range(self.calls):
                call()

        return self.backend.capture(step)

    def synchronize(self) -> None:
        self.backend.synchronize()

    def microseconds(self, call: Call) -> float:
        """The median over the rounds of the mean time of a call."""
        graph = self.repeated(call)
        for _ in range(3):
            graph()
        times = []
        for _ in range(self.rounds):
            self.synchronize()
            started = time.perf_counter()
            for _ in range(self.repeats):
                graph()
            self.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times) / (self.calls * self.repeats) * 1e6

    def warm_and_cold(self, call: Call) -> tuple[float, float]:
        def overwritten() -> None:
            self.overwrite()
            call()

        warm = self.microseconds(call)
        return warm, max(warm, self.microseconds(overwritten) - self.microseconds(self.overwrite))


class TorchClock(Clock):
    """The same for calls of PyTorch."""

    def __init__(self, torch: Any, device: str, **options: int) -> None:
        super().__init__(None, **options)
        self.torch, self.device = torch, device

    def overwrite(self) -> object:
        return self.torch.zeros(_L2_BYTES // 4, device=self.device)

    def repeated(self, call: Call) -> Call:
        def step() -> None:
            for _ in range(self.calls):
                call()

        if self.device == "cpu":
            return step
        for _ in range(3):
            step()  # cuDNN tries its algorithms
        self.torch.cuda.synchronize()
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            step()
        replay: Call = graph.replay
        return replay

    def synchronize(self) -> None:
        if self.device != "cpu":
            self.torch.cuda.synchronize()


def ours(backend: Backend, x: np.ndarray, weight: np.ndarray, dy: np.ndarray) -> dict[str, Call]:
    """A call of gpunet by direction."""
    on_device = tuple(map(backend.asarray, (dy, x, weight)))
    gradient = partial(ops.conv2d_backward, *on_device, padding=1)
    return {
        "forward": lambda: ops.conv2d(*on_device[1:], padding=1),
        "dx": lambda: gradient(needs=("x",)),
        "dweight": lambda: gradient(needs=("weight",)),
    }


def torchs(torch: Any, device: str, x: np.ndarray, weight: np.ndarray, dy: np.ndarray) -> dict[str, Call]:
    """A call of PyTorch by direction, in float32 and with channels last, as gpunet's are."""

    def moved(array: np.ndarray, axes: tuple[int, ...]) -> Any:
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(axes))).to(device)
        return tensor.contiguous(memory_format=torch.channels_last)

    inputs, gradients, kernel = moved(x, (0, 3, 1, 2)), moved(dy, (0, 3, 1, 2)), moved(weight, (3, 2, 0, 1))

    def gradient(mask: list[bool]) -> object:
        backward = torch.ops.aten.convolution_backward
        found = backward(gradients, inputs, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)
        return found[0] if mask[0] else found[1]

    return {
        "forward": lambda: torch.nn.functional.conv2d(inputs, kernel, None, padding=1),
        "dx": lambda: gradient([True, False, False]),
        "dweight": lambda: gradient([False, True, False]),
    }


def cudnn(device: str, precision: str) -> Any:
    """PyTorch, set to have cuDNN choose its fastest algorithm in `precision`; None if it or its GPU is not there."""
    try:
        import torch
    except ImportError:
        return None
    if device != "cpu" and not torch.cuda.is_available():
        return None
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch


def convolutions(
    backend: Backend,
    batch: int = 256,
    layers: Mapping[str, tuple[int, int, int]] = NETWORK,
    *,
    precision: str = "float32",
    **options: int,
) -> dict[str, str]:
    """A line for each of the network's convolutions and each direction, of both libraries in `precision`."""
    rng, found = np.random.default_rng(0), {}
    torch = cudnn(backend.device, precision)
    for layer, (channels, filters, size) in layers.items():
        x = rng.standard_normal((batch, size, size, channels), np.float32)
        weight = rng.standard_normal((3, 3, channels, filters), np.float32)
        dy = rng.standard_normal((batch, size, size, filters), np.float32)
        flops = useful_flops(Conv2dGeometry.of(x.shape, weight.shape, padding=1))
        calls, clock = ours(backend, x, weight, dy), Clock(backend, **options)
        peers = torchs(torch, backend.device, x, weight, dy) if torch else {}
        for direction in DIRECTIONS:
            with backend.use_precision(precision):
                line = _line(*clock.warm_and_cold(calls[direction]), flops)
            if torch:
                peer = TorchClock(torch, backend.device, **options)
                line += f"; PyTorch: {_line(*peer.warm_and_cold(peers[direction]), flops)}"
            found[f"{layer} {direction} N={batch}, {precision}"] = line
    found["PyTorch"] = f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}" if torch else "not installed"
    return found


def _line(warm: float, cold: float, flops: int) -> str:
    """Such as ``10.0 us (2.00 TFLOP/s) with a warm L2, 20.0 us (1.00) with a cold one``."""
    rates = flops / warm / 1e6, flops / cold / 1e6
    return f"{warm:.1f} us ({rates[0]:.2f} TFLOP/s) with a warm L2, {cold:.1f} us ({rates[1]:.2f}) with a cold one"
