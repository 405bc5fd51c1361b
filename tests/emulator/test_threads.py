"""The emulator's threads: what is right runs right in every order, and what is wrong is found."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.emulator import EmulationError, missing
from tests.emulator.planted import device, launch, output

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

SEEDS = (0, 1, 2, 3)
UCONTEXT = ("-DEMULATOR_UCONTEXT",)

REDUCTION = """
extern "C" __global__ void total(const float* x, float* y, int n) {
    __shared__ float partial[64];
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    partial[threadIdx.x] = sum;
    SYNC
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        SYNC
    }
    if (threadIdx.x == 0) y[blockIdx.x] = partial[0];
}
"""


def total(text: str, *, seed: int, flags: tuple[str, ...] = ()) -> Any:
    x, y = np.arange(1000), output(5)
    launch(text, "total", device(x), y, np.int32(x.size), block=64, grid=5, seed=seed, flags=flags)
    return y.get()


@pytest.mark.parametrize("flags", [(), UCONTEXT], ids=["own switch", "ucontext"])
@pytest.mark.parametrize("seed", SEEDS)
def test_reduction(seed: int, flags: tuple[str, ...]) -> None:
    y = total(REDUCTION.replace("SYNC", "__syncthreads();"), seed=seed, flags=flags)
    np.testing.assert_array_equal(y, 499500)


def test_missing_barrier_reads_poison() -> None:
    assert np.isnan(total(REDUCTION.replace("SYNC", ""), seed=0)).all()


RACE = """
extern "C" __global__ void shift(float* y) {
    __shared__ float values[64];
    values[threadIdx.x] = threadIdx.x;
    __syncthreads();
    const float next = values[(threadIdx.x + 1) % 64];
    BARRIER
    values[threadIdx.x] = next;  // without the barrier the neighbour may not have read yet
    __syncthreads();
    y[threadIdx.x] = values[threadIdx.x];
}
"""


def test_race_shows_under_some_seed() -> None:
    expected = (np.arange(64) + 1) % 64
    for barrier, always in (("__syncthreads();", True), ("", False)):
        right = []
        for seed in SEEDS:
            y = output(64)
            launch(RACE.replace("BARRIER", barrier), "shift", y, block=64, seed=seed)
            right.append(bool((y.get() == expected).all()))
        assert all(right) == always


def test_blocks_run_in_another_order_under_another_seed() -> None:
    text = """
    extern "C" __global__ void order(int* counter, int* y) {
        const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        y[block] = atomicAdd(counter, 1);
    }
    """
    orders = []
    for seed in SEEDS:
        y = output(60, dtype=np.int32)
        launch(text, "order", device([0], np.int32), y, grid=(5, 4, 3), block=1, seed=seed)
        orders.append(y.get().tolist())
        assert sorted(orders[-1]) == list(range(60))
    assert orders[0] == list(range(60)) and len({tuple(order) for order in orders}) > 2


def test_indices() -> None:
    text = """
    extern "C" __global__ void where(int* y) {
        const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        y[block * 24 + thread] = threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * block;
    }
    """
    y = output(6, 4, 3, 2, dtype=np.int32)
    launch(text, "where", y, grid=(1, 2, 3), block=(2, 3, 4), seed=1)
    block, z, yy, x = np.indices(y.shape)
    np.testing.assert_array_equal(y.get(), x + 10 * yy + 100 * z + 1000 * block)


ILLEGAL = [
    ("if (threadIdx.x < 16) __syncthreads();\nelse __syncthreads();", r"divergent barrier.*0-15.*:3.*16-31.*:4"),
    ("if (threadIdx.x < 16) __syncthreads();\nelse __syncwarp();", r"deadlock.*0-15: __syncthreads.*16-31: __syncwarp"),
    ("__shfl_sync(0xffff0000u, 1, 0);", r"lane \d+ calls with mask 0xffff0000, which does not name it"),
    (
        "__shfl_sync(threadIdx.x ? 0xffffffffu : 1u | 2u, 1, 0);",
        r"mask 0x\w+, but lane \d+ of the same warp waits in __shfl_sync",
    ),
    ("if (threadIdx.x == 5) return;\n__syncwarp();", r"names lane 5, (and that exits|which has exited)"),
    (
        "if (threadIdx.x < 9) __any_sync(~0u, 1);\nelse __all_sync(~0u, 1);",
        r"__a.._sync with mask .* waits in __a.._sync",
    ),
    ("if (threadIdx.x == 3) __trap();", r"__trap \[case.cu:3, block \(0, 0, 0\), thread \(3, 0, 0\)\]"),
    ("y[threadIdx.x / 32 - (1ll << 40)] = 1;", r"invalid address"),
    ("const int zero = threadIdx.x / 32; y[0] = 100 / zero;", r"integer division by zero"),
    ("volatile char big[1 << 22]; big[threadIdx.x] = 1; y[0] = big[threadIdx.x];", r"stack overflow"),
    ("unsigned r[4]; ldmatrix_x4(r, y);", r"not in shared memory"),
    ("cp_async_16(y, y, true);", r"not in shared memory"),
]
ILLEGAL_SOURCE = (
    'extern "C" __global__ void good(int* y) { __syncthreads(); y[threadIdx.x] = threadIdx.x; }\n'
    + "".join(
        f'#line 1 "case.cu"\nextern "C" __global__ void illegal{i}(int* y) {{\n__syncwarp();\n{body}\n}}\n'
        for i, (body, _) in enumerate(ILLEGAL)
    )
)


@pytest.mark.parametrize("case", range(len(ILLEGAL)), ids=[message[:20] for _, message in ILLEGAL])
@pytest.mark.parametrize("flags", [(), UCONTEXT], ids=["own switch", "ucontext"])
@pytest.mark.parametrize("seed", SEEDS)
def test_illegal_kernels_are_reported(case: int, flags: tuple[str, ...], seed: int) -> None:
    y = output(32, dtype=np.int32)
    for _ in range(2):  # the second after an error
        with pytest.raises(EmulationError, match=re.compile(ILLEGAL[case][1], re.DOTALL)):
            launch(ILLEGAL_SOURCE, f"illegal{case}", y, seed=seed, flags=flags)
        launch(ILLEGAL_SOURCE, "good", y, seed=seed, flags=flags)
        np.testing.assert_array_equal(y.get(), np.arange(32))


def test_lane_that_does_not_exist() -> None:
    text = 'extern "C" __global__ void few(int* y) { __syncwarp(); }'
    with pytest.raises(EmulationError, match="lane 20, which does not exist"):
        launch(text, "few", output(1, dtype=np.int32), block=20)


def test_exited_threads_do_not_hold_up_a_barrier() -> None:
    text = """
    extern "C" __global__ void early(float* y) {
        if (threadIdx.x % 3 == 0) return;
        __syncthreads();
        y[threadIdx.x] = 1;
    }
    """
    for seed in SEEDS:
        y = device(np.zeros(70))
        launch(text, "early", y, block=70, seed=seed)
        np.testing.assert_array_equal(y.get(), np.arange(70) % 3 > 0)


def test_barriers_that_count() -> None:
    text = """
    extern "C" __global__ void count(int* y) {
        const int i = threadIdx.x;
        y[i] = __syncthreads_count(i < 7);
        y[40 + i] = __syncthreads_or(i == 39) + 2 * __syncthreads_or(0);
        y[80 + i] = __syncthreads_and(i < 40) + 2 * __syncthreads_and(i < 39);
    }
    """
    y = output(3, 40, dtype=np.int32)
    launch(text, "count", y, block=40, seed=2)
    np.testing.assert_array_equal(y.get(), np.repeat([[7], [1], [1]], 40, axis=1))


def test_shared_memory_is_poisoned_in_every_block() -> None:
    text = """
    extern "C" __global__ void stale(float* y) {
        __shared__ float own[32];
        DYNAMIC_SHARED(double, dynamic);
        y[blockIdx.x * 32 + threadIdx.x] = own[threadIdx.x] + dynamic[threadIdx.x];
        own[threadIdx.x] = dynamic[threadIdx.x] = 0;
    }
    """
    y = output(3, 32)
    launch(text, "stale", y, grid=3, shared=256)
    assert np.isnan(y.get()).all()


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        (1, 1025, 0, "1024 in all"),
        (1, (32, 32, 2), 0, "1024 in all"),
        (1, (1, 1, 65), 0, r"at most \(1024, 1024, 64\)"),
        (1, (0, 1, 1), 0, r"a block of \(0, 1, 1\)"),
        (1, 65, 0, r"__launch_bounds__\(64\)"),
        ((1, 65536, 1), 1, 0, "65535"),
        ((0, 1, 1), 1, 0, "none is 0"),
        ((-1, 1, 1), 1, 0, "bad launch"),
        (1, 1, 227 * 1024 - 63, "shared memory: a block has at most 232448"),
    ],
)
def test_bad_launches(grid: Any, block: Any, shared: int, message: str) -> None:
    text = """
    extern "C" __global__ void __launch_bounds__(64) small(float* y) {
        __shared__ float own[16];
        y[0] = own[threadIdx.x];
    }
    """
    with pytest.raises(EmulationError, match=message):
        launch(text, "small", output(1), grid=grid, block=block, shared=shared)
    launch(text, "small", output(1), shared=227 * 1024 - 64)


def test_null_pointer_and_parameter_types() -> None:
    text = """
    extern "C" __global__ void mixed(const float* a, double b, unsigned char c, unsigned d, long long e,
                                     unsigned long long f, double* y) {
        y[0] = a == nullptr; y[1] = b; y[2] = c; y[3] = d; y[4] = e; y[5] = f;
    }
    """
    y = output(6, dtype=np.float64)
    launch(
        text,
        "mixed",
        None,
        np.float64(2.5),
        np.uint8(200),
        np.uint32(2**32 - 1),
        np.int64(-(2**40)),
        np.uint64(7),
        y,
        block=1,
    )
    np.testing.assert_array_equal(y.get(), [1, 2.5, 200, 2**32 - 1, -(2**40), 7])
    with pytest.raises(EmulationError, match="was read as"):
        launch(text.replace("double b", "float b"), "mixed", None, *map(np.float64, range(5)), y)


def test_source_that_does_not_compile() -> None:
    with pytest.raises(EmulationError, match=r"planted.cu:7:.*error: .*undeclared_name"):
        launch(
            '#line 7 "planted.cu"\nextern "C" __global__ void bad(int* y) { y[0] = undeclared_name; }',
            "bad",
            device([0]),
        )
