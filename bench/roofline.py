"""The roofline of a device: FLOP rate of a large matrix product, bandwidth of a large copy (Williams et al. 2009).

    python -m bench.roofline [--device cpu]

An op with F operations and B bytes of memory traffic takes at least ``max(F / peak, B / bandwidth)``. Its fraction of
the roofline is that time divided by the measured one. Arrays that stay in cache move faster than main memory, so small
ops can exceed 100 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from bench.machine import threads
from gpunet.backend import CPU, Backend
from gpunet.devices import get_backend
from gpunet.ops.geometry import Conv2dGeometry


def useful_flops(g: Conv2dGeometry) -> int:
    """Multiplications and additions, excluding those on the padding, which are unnecessary."""
    taps = []
    for axis, (size, out) in enumerate(((g.height, g.out_height), (g.width, g.out_width))):
        start = np.arange(out)[:, None] * g.stride[axis] - g.padding[2 * axis]
        position = start + np.arange(g.kernel[axis]) * g.dilation[axis]
        taps.append(int(((position >= 0) & (position < size)).sum()))
    return 2 * g.batch * taps[0] * taps[1] * (g.in_channels // g.groups) * g.out_channels


class Roofline(NamedTuple):
    """Peak rates of a device in float32."""

    gflop_per_s: float
    gbyte_per_s: float

    def seconds(self, flops: float, bytes_moved: float) -> float:
        """The minimum time of an op."""
        return max(flops / self.gflop_per_s, bytes_moved / self.gbyte_per_s) / 1e9

    def bound(self, flops: float, bytes_moved: float) -> str:
        """What limits it: ``arithmetic`` or ``memory``."""
        return "arithmetic" if flops / self.gflop_per_s >= bytes_moved / self.gbyte_per_s else "memory"


def measure(backend: Backend = CPU, *, size: int = 2048, megabytes: int = 256, seconds: float = 1.0) -> Roofline:
    """Best rates within `seconds` each: the product of two size x size matrices, and a copy of `megabytes`.

    Both use as many threads as the benchmarks, as one thread cannot saturate the memory bandwidth. The copy's bytes
    count twice, since they are read and written.
    """
    xp = backend.xp
    a, b, product = (xp.ones((size, size), np.float32) for _ in range(3))
    source, target = (xp.ones(megabytes * 250_000, np.float32) for _ in range(2))
    flops, moved = 2 * size**3, 2 * source.nbytes
    copying = _best(backend, _copier(backend, source, target), seconds)
    return Roofline(flops / _best(backend, lambda: xp.matmul(a, b, out=product), seconds) / 1e9, moved / copying / 1e9)


def _copier(backend: Backend, source: Any, target: Any) -> Callable[[], object]:
    if backend is not CPU:
        return lambda: backend.xp.copyto(target, source)
    parts = list(zip(*(np.array_split(array, threads()) for array in (target, source)), strict=True))
    pool = ThreadPoolExecutor(len(parts))  # NumPy releases the GIL while copying

    def copy() -> None:
        list(pool.map(lambda part: np.copyto(*part), parts))

    return copy


def _best(backend: Backend, function: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    function()
    backend.synchronize()
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        started = time.perf_counter()
        function()
        backend.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline")
    parser.add_argument("--device", default="cpu")
    found = measure(get_backend(parser.parse_args().device))
    print(f"{found.gflop_per_s:.0f} GFLOP/s in a large product, {found.gbyte_per_s:.1f} GB/s in a large copy")


if __name__ == "__main__":
    main()
