"""Every kernel compiles for every architecture, within the committed budget of registers, spills and shared memory."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gpunet.cuda import kernels
from gpunet.cuda.sources import source_folder
from tests.nvrtc import compiler

pytestmark = [pytest.mark.nvrtc, pytest.mark.skipif(compiler.missing() is not None, reason=compiler.missing() or "")]

VARIANTS = compiler.variants()


@pytest.mark.parametrize(("source", "defines"), VARIANTS, ids=[compiler.label(*variant) for variant in VARIANTS])
def test_within_budget(source: str, defines: Mapping[str, str]) -> None:
    budgets = compiler.read_budgets().get(compiler.label(source, defines), {})
    assert set(budgets) == set(kernels(source, defines)), "python -m tests.nvrtc writes the budgets of new kernels"
    over = []
    for architecture, found in compiler.compile_for_all(source, defines).items():
        assert set(found) == set(budgets)
        for kernel, usage in found.items():
            budget = budgets[kernel][architecture]
            for field in ("registers", "spilled", "shared"):
                if getattr(usage, field) > getattr(budget, field):
                    over.append(
                        f"{kernel} on {architecture}: {field} {getattr(usage, field)} > {getattr(budget, field)}"
                    )
    assert not over, "\n".join(over)


@pytest.mark.parametrize("architecture", compiler.ARCHITECTURES)
def test_every_ptx_wrapper_compiles(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that no kernel uses yet, of which the emulator has twins."""
    ptx = (source_folder() / "ptx.cuh").read_text()
    kernel = """
    extern "C" __global__ void relu(const float* x, float* y, int n) {
        __shared__ __align__(16) unsigned tile[512];
        cp_async_16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, n > 3);
        cp_async_4(tile + 256 + threadIdx.x, x + threadIdx.x, n > 5);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        unsigned a[4], b[4];
        ldmatrix_x4(a, tile + 4 * threadIdx.x);
        ldmatrix_x4_trans(b, tile + 4 * threadIdx.x);
        float d[4] = {__uint_as_float(to_tf32(x[0]))};
    #if __CUDA_ARCH__ >= 800
        a[0] = to_bf16x2(x[1], x[2]);
        const unsigned two[2] = {b[0], b[1]};
        mma_m16n8k8_tf32(d, a, two);
        mma_m16n8k16_bf16(d, a, two);
    #endif
        y[threadIdx.x] = d[0] + d[1] + d[2] + d[3] + a[1] + b[2];
    }"""
    monkeypatch.setattr(compiler, "source_text", lambda name: ptx + kernel)
    assert set(compiler.compile_for("activation", {"REAL": "float"}, architecture)) == {"relu"}


def test_nothing_spills() -> None:
    for variant, by_kernel in compiler.read_budgets().items():
        for kernel, by_architecture in by_kernel.items():
            spilled = {architecture: usage.spilled for architecture, usage in by_architecture.items() if usage.spilled}
            assert not spilled, f"{variant} {kernel}: {spilled}"


def test_no_budget_of_a_variant_that_is_gone() -> None:
    assert set(compiler.read_budgets()) == {compiler.label(*variant) for variant in VARIANTS}


def test_a_kernel_that_grows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate itself: a source that needs far more registers than its budget, and one that does not compile."""
    greedy = """
    typedef REAL real;
    extern "C" __global__ void relu(const real* x, real* y, int n) {
        real values[64];
        for (int i = 0; i < 64; i++) values[i] = x[i * n + threadIdx.x];
        __syncthreads();
        for (int i = 0; i < 64; i++) y[i * n + threadIdx.x] = values[i] * values[63 - i];
    }"""
    monkeypatch.setattr(compiler, "source_text", lambda name: greedy)
    usage = compiler.compile_for("activation", {"REAL": "float"}, "sm_80")["relu"]
    assert usage.registers > compiler.read_budgets()["activation REAL=float"]["relu"]["sm_80"].registers + 40
    monkeypatch.setattr(compiler, "source_text", lambda name: greedy.replace("values[63", "valeus[63"))
    with pytest.raises(AssertionError, match=r"sm_80 does not compile:\n(.|\n)*valeus"):
        compiler.compile_for("activation", {"REAL": "float"}, "sm_80")
