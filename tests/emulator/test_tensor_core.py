"""The emulator's tensor cores, matrix loads and asynchronous copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.emulator import EmulationError, missing
from tests.emulator.planted import device, launch, output

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

SEEDS = (0, 1, 2)

TF32 = """
extern "C" __global__ void product(const float* a, const float* b, float* d) {
    const int group = threadIdx.x / 4, member = threadIdx.x % 4;
    const unsigned fa[4] = {to_tf32(a[group * 8 + member]), to_tf32(a[(group + 8) * 8 + member]),
                            to_tf32(a[group * 8 + member + 4]), to_tf32(a[(group + 8) * 8 + member + 4])};
    const unsigned fb[2] = {to_tf32(b[member * 8 + group]), to_tf32(b[(member + 4) * 8 + group])};
    float fd[4] = {1, 1, 1, 1};
    mma_m16n8k8_tf32(fd, fa, fb);
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = fd[i];
}
"""

# A by ldmatrix, row by row; B by ldmatrix, transposed: the fragments that a convolution would load.
BF16 = """
extern "C" __global__ void product(const float* a, const float* b, float* d) {
    __shared__ __align__(16) unsigned short sa[16][16];
    __shared__ __align__(16) unsigned short sb[16][16];  // columns 8 to 15 are not used
    const int lane = threadIdx.x, group = lane / 4, member = lane % 4;
    for (int i = lane; i < 256; i += 32) {
        sa[i / 16][i % 16] = to_bf16x2(a[i], 0);
        sb[i / 16][i % 16] = to_bf16x2(0, i % 16 < 8 ? b[i / 16 * 8 + i % 16] : 0) >> 16;
    }
    __syncwarp();
    unsigned fa[4], fb[4];
    ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
    ldmatrix_x4_trans(fb, &sb[lane % 16][lane / 16 * 8]);
    float fd[4] = {1, 1, 1, 1};
    const unsigned left[2] = {fb[0], fb[1]};
    mma_m16n8k16_bf16(fd, fa, left);
    for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = fd[i];
}
"""


def rounded(x: np.ndarray, bits: int, *, ties_away: bool) -> np.ndarray:
    """float32 numbers without their last `bits`, rounded to the nearest."""
    whole = x.view(np.uint32).astype(np.uint64)
    half, odd = 1 << (bits - 1), whole >> bits & 1
    kept = (whole + (half if ties_away else half - 1 + odd)) >> bits << bits
    return kept.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("text", "depth", "bits", "ties_away"), [(TF32, 8, 13, True), (BF16, 16, 16, False)])
def test_product(text: str, depth: int, bits: int, ties_away: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((16, depth)).astype(np.float32)
    b = rng.standard_normal((depth, 8)).astype(np.float32)
    a[0, 0] = np.uint32(0x3F801000 if ties_away else 0x3F808000).view(np.float32)  # a tie
    d = output(16, 8)
    launch(text, "product", device(a), device(b), d, seed=seed)
    low_a, low_b = (rounded(x, bits, ties_away=ties_away).astype(np.float64) for x in (a, b))
    np.testing.assert_array_equal(d.get(), (low_a @ low_b + 1).astype(np.float32))


def test_conversions_of_special_values() -> None:
    text = """
    extern "C" __global__ void convert(const float* x, float* tf32, float* low, float* high) {
        const int i = threadIdx.x;
        tf32[i] = __uint_as_float(to_tf32(x[i]));
        low[i] = __uint_as_float(to_bf16x2(x[i], 0) << 16);
        high[i] = __uint_as_float(to_bf16x2(0, x[i]) & 0xffff0000u);
    }
    """
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 3.4e38, 1 / 3, -1e-30], np.float32)
    results = [output(8) for _ in range(3)]
    launch(text, "convert", device(x), *results, block=8)
    tf32, low, high = (result.get() for result in results)
    np.testing.assert_array_equal(low, high)
    for result, epsilon in ((tf32, 2**-11), (low, 2**-8)):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(x))
        assert np.signbit(result[4])
        finite = np.isfinite(x) & (np.abs(x) < 1e38)
        assert (np.abs(result[finite] - x[finite]) <= epsilon * np.abs(x[finite])).all()
        np.testing.assert_array_equal(result[1:3], x[1:3])


def test_product_by_part_of_a_warp() -> None:
    with pytest.raises(EmulationError, match="mma_m16n8k8_tf32: mask 0xffffffff names lane 16, which does not exist"):
        launch(TF32, "product", device(np.zeros(128)), device(np.zeros(64)), output(128), block=16)


COPY = """
extern "C" __global__ void staged(const float* x, float* y, int n) {
    __shared__ __align__(16) float buffer[2][128];
    const int i = threadIdx.x;
    cp_async_16(&buffer[0][i * 4], x + i * 4, i * 4 < n);
    COMMIT
    for (int part = 0; part < 4; ++part) cp_async_4(&buffer[1][i + part * 32], x + i + part * 32, i + part * 32 < n);
    COMMIT
    FIRST
    __syncthreads();
    y[i] = buffer[0][127 - i];
    __syncthreads();
    LAST
    __syncthreads();
    y[32 + i] = buffer[1][127 - i];
}
"""


def staged(first: str, last: str, commit: str = "cp_async_commit();") -> Any:
    x, y = np.arange(128), output(2, 32)
    text = COPY.replace("COMMIT", commit).replace("FIRST", first).replace("LAST", last)
    launch(text, "staged", device(x), y, np.int32(100), seed=1)
    return y.get()


def test_copies_land_when_they_are_waited_for() -> None:
    expected = np.where(np.arange(127, 95, -1) < 100, np.arange(127, 95, -1), 0)
    np.testing.assert_array_equal(staged("cp_async_wait<1>();", "cp_async_wait<0>();"), [expected, expected])
    early, late = staged("cp_async_wait<2>();", "cp_async_wait<0>();")
    assert np.isnan(early).all()
    np.testing.assert_array_equal(late, expected)
    early, late = staged("cp_async_wait<1>();", "")
    np.testing.assert_array_equal(early, expected)
    assert np.isnan(late).all()
    assert np.isnan(staged("cp_async_wait<0>();", "cp_async_wait<0>();", commit="")).all()


def test_copy_overwrites_what_is_still_read() -> None:
    """A buffer is gone once a copy into it has started, whenever that lands."""
    text = """
    extern "C" __global__ void refill(const float* x, float* y) {
        __shared__ float buffer[32];
        buffer[threadIdx.x] = 1;
        cp_async_4(&buffer[threadIdx.x], x, true);
        y[threadIdx.x] = buffer[threadIdx.x];
    }
    """
    y = output(32)
    launch(text, "refill", device([0]), y)
    assert np.isnan(y.get()).all()


def test_copy_must_be_aligned() -> None:
    text = """
    extern "C" __global__ void skewed(const float* x) {
        __shared__ __align__(16) float buffer[8];
        cp_async_16(buffer, x + 1, true);
    }
    """
    with pytest.raises(EmulationError, match="not at a multiple of 16 bytes"):
        launch(text, "skewed", device(np.zeros(8)))
