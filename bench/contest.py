"""Several implementations of one op: how each is prepared, checked and timed.

A benchmark describes a :class:`Problem`; :class:`Contest` (the fixture ``contest``) checks the result of the chosen
implementation against that of another one, and then times it. Along with each peer's time, it reports the ratio of that
time to gpunet's, measured in pairs: see :func:`paired_ratios`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.roofline import Roofline, measure
from gpunet.backend import CPU, Backend
from gpunet.devices import cuda_status, get_backend
from tests.support import assert_close, sum_scale, torch_or_skip

Call = Callable[[], Any]

OURS = {"cpu": "numba", "cuda": "rawkernel"}
"""gpunet's implementation on each kind of device."""
ON_GPU = ("cupy", "rawkernel")

BURST = 0.01
"""Seconds per side of a pair: long enough for the clock's resolution, short enough for both to see the same load."""
PAIRS = 7
PAIRS_LIMIT = 1.0
"""Time budget of all pairs, in seconds; if it is too short there are fewer pairs, but at least three."""
CALLS_A_ROUND = 20
"""Calls per synchronisation on a GPU, where synchronising after every call would dominate the time."""
REFERENCE_LIMIT = 0.1
"""Seconds; references that take longer are skipped."""


@dataclass(frozen=True)
class Problem:
    """An op at one shape in one direction, and its implementations.

    Each implementation is a function that takes copies of the arrays on its device and returns the call to time;
    `expression` takes the array module as its first argument. The call returns an array or a tuple of arrays.
    """

    op: str
    shape: str
    direction: str
    batch: int
    arrays: Mapping[str, np.ndarray]
    bytes_moved: int
    """Minimum memory traffic: each array once."""
    flops: int = 0
    terms: int = 1
    """Length of the sums, for the tolerance."""
    sums: bool = False
    """Whether the results are sums of `terms` products of standard normal numbers, which may cancel."""
    scale: float | None = None
    """Magnitude of the numbers whose rounding errors affect the results; default: the largest result."""
    amplification: float = 1.0
    """By how much gpunet's kernels on the CPU may enlarge the rounding errors of a plain sum."""
    ours: Callable[[Any], Call] | None = None
    expression: Callable[[Any, Any], Call] | None = None
    reference: Callable[[Any], Call] | None = None
    pytorch: Callable[..., Call] | None = None
    """Takes torch, the tensors and the suffix after ``pytorch-`` in the implementation's name."""
    reference_seconds: float = 0.0
    """Rough time of the reference, to skip it if it would take too long."""
    others: Mapping[str, Callable[[Any], Call]] = field(default_factory=dict)
    """Further implementations by name, on NumPy arrays."""
    oracle: Callable[[], Any] | None = None
    """Results in float64, or their first rows. Default: the reference's; to check the reference, NumPy's."""
    oracle_is: str = "reference"
    """The implementation that serves as the oracle, and is therefore checked against another one."""
    read: Callable[[Any], Any] = field(default=lambda results: results)
    """Extracts what is compared from the result of a call."""


def backend_for(implementation: str) -> Backend:
    """The device an implementation runs on; skips the test, with the reason, if there is none."""
    if implementation not in ON_GPU:
        return CPU
    problem = cuda_status().problem
    if problem is not None:
        pytest.skip(f"no GPU: {problem}")
    return get_backend("cuda")


def prepare(problem: Problem, implementation: str) -> Call:
    """The call to time for an implementation; skips the test if it cannot run."""
    backend = backend_for(implementation)
    arrays = {name: array.copy() for name, array in problem.arrays.items()}
    if implementation in problem.others:
        return problem.others[implementation](SimpleNamespace(**arrays))
    kind, _, variant = implementation.partition("-")
    if kind == "pytorch":
        torch = torch_or_skip()
        assert problem.pytorch
        # Maps are NHWC in memory, a channels-last view of PyTorch's NCHW; the variant may convert the layout.
        tensors = SimpleNamespace(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        return problem.pytorch(torch, tensors, variant)
    if kind == "reference":
        if problem.reference_seconds > REFERENCE_LIMIT:
            pytest.skip(f"the reference would take more than {REFERENCE_LIMIT} s at this size")
        assert problem.reference
        return problem.reference(SimpleNamespace(**arrays))
    moved = SimpleNamespace(**{name: backend.asarray(array) for name, array in arrays.items()})
    if kind in ("numpy", "cupy"):
        assert problem.expression
        return problem.expression(backend.xp, moved)
    assert problem.ours
    return problem.ours(moved)


def on_host(results: Any) -> tuple[np.ndarray, ...]:
    """NumPy, CuPy or PyTorch arrays as NumPy arrays."""
    results = results if isinstance(results, (tuple, list)) else (results,)
    return tuple(np.asarray(one.get() if hasattr(one, "get") else one) for one in results)


def paired_ratios(
    ours: Call, theirs: Call, pairs: int = PAIRS, burst: float = BURST, limit: float = PAIRS_LIMIT
) -> list[float]:
    """Their time divided by ours, one ratio per pair: each runs for about `burst` seconds, back to back.

    The order alternates from pair to pair, and an untimed call before each burst wakes the threads and brings the
    arrays back into cache. Both sides of a pair see the same load, clock rate and noise from other processes, so that
    these cancel out, unlike when one is timed entirely before the other.
    """
    sides = (ours, theirs)
    once = [max(_seconds(side, 1), 1e-9) for side in sides]
    counts = [max(1, int(burst / seconds)) for seconds in once]
    one_pair = sum((count + 1) * seconds for count, seconds in zip(counts, once, strict=True))
    ratios = []
    for pair in range(max(3, min(pairs, int(limit / one_pair)))):
        taken = [0.0, 0.0]
        for side in (0, 1) if pair % 2 else (1, 0):
            sides[side]()
            taken[side] = _seconds(sides[side], counts[side])
        ratios.append(taken[1] / taken[0])
    return ratios


def _seconds(call: Call, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count


class Contest:
    """Checks and times implementations; one object per session, so that shared results are computed once."""

    def __init__(self) -> None:
        self._oracle: tuple[Any, tuple[np.ndarray, ...]] = ((), ())
        self._rooflines: dict[str, Roofline] = {}

    def roofline(self, backend: Backend) -> Roofline:
        if backend.device not in self._rooflines:
            self._rooflines[backend.device] = measure(backend)
        return self._rooflines[backend.device]

    def check(self, problem: Problem, implementation: str) -> None:
        """Check the first call's result against the oracle's; if that has fewer rows, only those are compared."""
        key = problem.op, problem.shape, problem.direction, problem.batch, implementation == problem.oracle_is
        if self._oracle[0] != key:
            self._oracle = key, on_host(_oracle(problem, implementation))
        expected = self._oracle[1]
        found = on_host(problem.read(prepare(problem, implementation)()))
        assert len(found) == len(expected)
        for actual, wanted in zip(found, expected, strict=True):
            shown = actual[: len(wanted)] if wanted.ndim else actual
            scale = sum_scale(wanted, problem.terms) if problem.sums else problem.scale
            if scale is not None and implementation == "numba":
                scale *= problem.amplification
            assert_close(shown, wanted, terms=problem.terms, dtype=np.float32, scale=scale)

    def run(self, problem: Problem, implementation: str, benchmark: Any) -> None:
        """Check, then time; the results go to ``extra_info``."""
        backend = backend_for(implementation)
        self.check(problem, implementation)
        self.time(problem, implementation, benchmark, backend)

    def time(self, problem: Problem, implementation: str, benchmark: Any, backend: Backend) -> None:
        benchmark.group = f"{problem.op}-{problem.direction}-N{problem.batch}-{problem.shape}"
        benchmark.name = implementation
        call = prepare(problem, implementation)
        timed, calls = burst(call, backend)
        benchmark(timed)
        benchmark.extra_info.update(
            op=problem.op, shape=problem.shape, direction=problem.direction, batch=problem.batch,
            implementation=implementation, device=backend.device, calls=calls,
            flops=problem.flops, bytes_moved=problem.bytes_moved,
        )  # fmt: skip
        if benchmark.stats is None:  # with --benchmark-disable
            return
        seconds = benchmark.stats.stats.median / calls
        peak = self.roofline(backend)
        benchmark.extra_info.update(rates(seconds, problem.flops, problem.bytes_moved, peak), peak=peak._asdict())
        rival = OURS[backend.implementation]
        if implementation not in (rival, "reference") and problem.ours:
            ours, _ = burst(prepare(problem, rival), backend)
            ours()
            found = sorted(paired_ratios(ours, timed))
            benchmark.extra_info.update(ratio=statistics.median(found), low=found[0], high=found[-1])


def _oracle(problem: Problem, implementation: str) -> Any:
    if problem.oracle:
        return problem.oracle()
    doubles = SimpleNamespace(
        **{
            name: array.astype(np.float64) if array.dtype == np.float32 else array.copy()
            for name, array in problem.arrays.items()
        }
    )
    if implementation == "reference":
        assert problem.expression
        return problem.read(problem.expression(np, doubles)())
    assert problem.reference
    return problem.read(problem.reference(doubles)())


def burst(call: Call, backend: Backend) -> tuple[Call, int]:
    """The function to time and its number of calls: on a GPU several, with one synchronisation."""
    if backend is CPU:
        return call, 1

    def calls() -> Any:
        for _ in range(CALLS_A_ROUND):
            result = call()
        backend.synchronize()
        return result

    return calls, CALLS_A_ROUND


def rates(seconds: float, flops: int, bytes_moved: int, peak: Roofline) -> dict[str, Any]:
    """Milliseconds, rates and fraction of the roofline for a call that took `seconds`."""
    return {
        "ms": seconds * 1e3,
        "gflop_per_s": flops / seconds / 1e9,
        "gbyte_per_s": bytes_moved / seconds / 1e9,
        "roofline_share": peak.seconds(flops, bytes_moved) / seconds,
        "bound": peak.bound(flops, bytes_moved),
    }


def nbytes(*arrays: np.ndarray) -> int:
    return sum(array.nbytes for array in arrays)


def maps(torch: Any, array: Any, layout: str) -> Any:
    """An (N, H, W, C) tensor as NCHW for PyTorch, with memory `layout` ``nchw`` or ``nhwc``."""
    memory = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}[layout]
    return array.permute(0, 3, 1, 2).contiguous(memory_format=memory)


def from_maps(result: Any) -> Any:
    """PyTorch's NCHW maps as NHWC; anything else unchanged."""
    if isinstance(result, (tuple, list)):
        return tuple(from_maps(one) for one in result)
    is_tensor = type(result).__module__.startswith("torch")
    return result.permute(0, 2, 3, 1) if is_tensor and result.ndim == 4 else result
