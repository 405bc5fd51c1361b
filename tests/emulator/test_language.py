"""What the emulator adds to C++ to make it CUDA C++."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tests.emulator import RUNTIME, build, missing
from tests.emulator.planted import compiled, device, launch, output

pytestmark = [pytest.mark.emulator, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def evaluated(expressions: list[str], *, dtype: Any = np.float64) -> Any:
    """Values of expressions, which may use float f = 1/3, double d = 1/3, float nan."""
    lines = "\n".join(f"y[{i}] = {expression};" for i, expression in enumerate(expressions))
    kind = "double" if dtype == np.float64 else "long long"
    text = f"""
    extern "C" __global__ void evaluate({kind}* y, float f, double d, float nan) {{
        {lines}
    }}
    """
    y = output(len(expressions), dtype=dtype)
    arguments = np.float32(1) / np.float32(3), np.float64(1) / 3, np.float32(np.nan)
    launch(text, "evaluate", y, *arguments, block=1)
    return y.get()


def test_functions_of_float_compute_in_float() -> None:
    names = ["exp", "log", "tanh", "erf", "erfc", "sqrt", "rsqrt", "fabs", "log1p", "expm1", "floor", "cos"]
    single = evaluated([f"{name}(f)" for name in names])
    double = evaluated([f"{name}(d)" for name in names])
    np.testing.assert_array_equal(single, single.astype(np.float32))
    np.testing.assert_allclose(single, double, rtol=1e-6)
    assert (double != double.astype(np.float32)).sum() >= len(names) - 2
    assert evaluated(["fma(f, f, -f * f)", "__fmaf_rn(f, f, -f * f)", "__fadd_rn(__fmul_rn(f, f), -f * f)"])[2] == 0


@pytest.mark.parametrize("everywhere", [False, True])
def test_contraction_only_where_it_is_asked_for(everywhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the source, or by the variable; what is rounded by name is never contracted."""
    monkeypatch.setenv(build.FMA, str(int(everywhere)))
    compiled.cache_clear()
    for x, real in (("f", np.float32), ("d", np.float64)):
        third = float(real(1) / real(3))
        square = float(real(third) * real(third))
        error = float(Fraction(third) ** 2 - Fraction(square))
        rounded = f"{square.hex()}{x.replace('d', '')}"
        (contracted,) = evaluated([f"{x} * {x} - {rounded}"])
        fused, *separate = evaluated(
            [
                f"fma({x}, {x}, -{rounded})",
                f"__{x}mul_rn({x}, {x}) - {rounded}",
                f"__{x}add_rn({x} * {x}, -{rounded})",
                f"__{x}sub_rn({x} * {x}, {rounded})",
            ]
        )
        assert error != 0 and fused == error
        assert contracted == (error if everywhere else 0) and separate == [0, 0, 0]


@pytest.mark.parametrize("flush", [False, True])
def test_denormals_are_flushed_where_that_is_asked_for(flush: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIME, "flush_denormals", flush)
    expressions = ["f * 0x1p-126f * 0x1p60f", "__uint_as_float(f < 1) * 0x1p100f", "f * 0x1p-120f * 0x1p60f"]
    third = float(np.float32(1) / np.float32(3))
    product = float(np.float32(third * 2.0**-126)) * 2.0**60
    expected = [0.0 if flush else product, 0.0 if flush else 2.0**-49, third * 2.0**-60]
    np.testing.assert_array_equal(evaluated(expressions), expected)
    assert float(np.float32(2.0**-149) * np.float32(1)) == 2.0**-149, "the host is as it was"


def test_min_and_max_of_nan() -> None:
    assert (evaluated(["max(nan, f)", "min(f, nan)", "fmaxf(nan, f)", "fmin(d, (double)nan)"]) - 1 / 3 < 1e-7).all()
    np.testing.assert_array_equal(
        evaluated(["isnan(nan)", "isfinite(nan)", "isinf(1 / (f - f))", "isnan(d)"]), [1, 0, 1, 0]
    )


def test_bits() -> None:
    values = evaluated(
        [
            "__umulhi(0xffffffffu, 0xffffffffu)", "__umul64hi(~0ull, ~0ull) == ~0ull - 1", "__popc(0xf0f0u)",
            "__clz(1)", "__clz(0)", "__float_as_int(-1.0f)", "__uint_as_float(0x40000000u)", "__ffs(8)", "__brev(1u)",
        ],
        dtype=np.int64,
    )  # fmt: skip
    assert values.tolist() == [2**32 - 2, 1, 8, 31, 32, -0x40800000, 2, 4, 2**31]


def test_vectors() -> None:
    text = """
    extern "C" __global__ void vectors(const float* x, float* y) {
        const float4 v = reinterpret_cast<const float4*>(x)[threadIdx.x];
        reinterpret_cast<float4*>(y)[threadIdx.x] = make_float4(v.w, v.z, v.y, v.x + sizeof(double2) + sizeof(float3));
    }
    """
    x, y = np.arange(16).reshape(4, 4), output(4, 4)
    launch(text, "vectors", device(x), y, block=4)
    np.testing.assert_array_equal(y.get(), x[:, ::-1] + [0, 0, 0, 28])


def test_atomics() -> None:
    text = """
    extern "C" __global__ void count(int* sum, float* total, int* largest, unsigned* last) {
        atomicAdd(sum, 1);
        atomicAdd(total, 0.5f);
        atomicMax(largest, threadIdx.x);
        atomicCAS(last, threadIdx.x, threadIdx.x + 1);
    }
    """
    results = device([0], np.int32), device([0]), device([0], np.int32), device([0], np.uint32)
    launch(text, "count", *results, block=100)
    assert [result.get().item() for result in results] == [100, 50, 99, 100]


def test_structs_by_value() -> None:
    """In as many slots of eight bytes as they take, wherever they stand among the parameters."""
    text = """
    struct Sizes { int a, b; double c; unsigned char d; };
    extern "C" __global__ void copy(float first, Sizes s, double* y, Sizes other, int last) {
        const double values[] = {first, double(s.a), double(s.b), s.c, double(s.d), double(other.d), double(last)};
        for (int i = 0; i < 7; ++i) y[i] = values[i];
    }
    """
    sizes = np.dtype([("a", "i4"), ("b", "i4"), ("c", "f8"), ("d", "u1")], align=True)
    y = output(7, dtype=np.float64)
    structs = [np.array(members, sizes)[()] for members in ((1, -2, 0.5, 200), (0, 0, 0, 7))]
    launch(text, "copy", np.float32(9), structs[0], y, structs[1], np.int32(-8), block=1)
    assert y.get().tolist() == [9, 1, -2, 0.5, 200, 7, -8]


SHUFFLES = """
extern "C" __global__ void shuffles(int* y) {
    const int lane = threadIdx.x % 32;
    y[threadIdx.x] = __shfl_down_sync(0xffffffffu, lane, 3);
    y[64 + threadIdx.x] = __shfl_up_sync(0xffffffffu, lane, 3, 8);
    y[128 + threadIdx.x] = __shfl_xor_sync(0xffffffffu, lane, 5);
    y[192 + threadIdx.x] = __shfl_sync(0xffffffffu, lane, lane + 1, 16);
    y[256 + threadIdx.x] = lane < 8 ? __shfl_sync(0xffu, lane, 7) : __shfl_sync(0xffffff00u, lane, 8);
    y[320 + threadIdx.x] = __popc(__ballot_sync(0xffffffffu, lane % 3 == 0)) + 100 * __any_sync(0xffffffffu, lane == 31)
                           + 1000 * __all_sync(0xffffffffu, lane < 31);
}
"""


@pytest.mark.parametrize("seed", (0, 1, 2))
def test_warp_functions(seed: int) -> None:
    y = output(6, 64, dtype=np.int32)
    launch(SHUFFLES, "shuffles", y, block=64, seed=seed)
    lane = np.arange(32)
    expected = [
        np.where(lane + 3 < 32, lane + 3, lane),
        np.where(lane % 8 >= 3, lane - 3, lane),
        lane ^ 5,
        lane // 16 * 16 + (lane + 1) % 16,
        np.where(lane < 8, 7, 8),
        np.full(32, 111),
    ]
    np.testing.assert_array_equal(y.get(), np.tile(expected, 2))


def test_shuffle_from_a_lane_that_takes_no_part_gives_poison() -> None:
    text = """
    extern "C" __global__ void foreign(float* y) {
        if (threadIdx.x < 8) y[threadIdx.x] = __shfl_down_sync(0xffu, 1.0f, 4);
    }
    """
    y = output(8)
    launch(text, "foreign", y)
    np.testing.assert_array_equal(np.isnan(y.get()), np.arange(8) >= 4)
