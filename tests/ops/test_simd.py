"""The SIMD code: the GEMM micro-kernel and Winograd's transforms, against NumPy; also for other vector widths."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from gpunet.ops._numba import jit
from gpunet.ops._simd import PANEL_BYTES, PANEL_VECTORS, VECTOR_BYTES, gemm_micro_kernel, micro_kernel
from gpunet.ops.conv2d import reference
from gpunet.ops.conv2d.cpu.winograd_transform import from_points, to_points
from tests.support import assert_close

FACTORS = [[[1.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 2.0]], [[0.0, 1.0, -1.0], [-0.5, 0.0, 3.0]]]
MIX = [[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 2.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
MIX_BACK = [[float((k % 4 == point) - (k == 8 and point == 1)) for point in range(4)] for k in range(9)]
points, points_mixed = to_points(FACTORS), to_points(FACTORS, [MIX])
grid, grid_clipped = from_points(FACTORS), from_points(FACTORS, clipped=True)
grid_mixed, grid_mixed_clipped = from_points(FACTORS, [MIX_BACK]), from_points(FACTORS, [MIX_BACK], clipped=True)
vectors_apart, elements_apart = micro_kernel(PANEL_VECTORS, 3, vectors_apart=True), micro_kernel(PANEL_VECTORS, 3)


@jit
def _multiply(a, rows, offsets, b, stride, c, d):  # type: ignore[no-untyped-def]
    gemm_micro_kernel(
        *(a, (rows[0], rows[1], rows[2]), offsets),
        *(b, 0, stride),
        *(c, 0, stride),
        *(d, 0, stride),
    )


@jit
def _multiply_apart(by_vectors, a, start, offsets, b, stride, c, d):  # type: ignore[no-untyped-def]
    if by_vectors:
        vectors_apart(*(a, start, offsets), *(b, 0, stride), *(c, 0, stride), *(d, 0, stride))
    else:
        elements_apart(*(a, start, offsets), *(b, 0, stride), *(c, 0, stride), *(d, 0, stride))


@jit
def _to_points(mixed, x, x_place, y, y_place, steps):  # type: ignore[no-untyped-def]
    if mixed:
        points_mixed(x, *x_place, y, *y_place, steps)
    else:
        points(x, *x_place, y, *y_place, steps)


@jit
def _from_points(mixed, clipped, x, x_place, y, y_place, steps, rows, columns):  # type: ignore[no-untyped-def]
    if mixed and clipped:
        grid_mixed_clipped(x, *x_place, y, *y_place, steps, rows, columns)
    elif mixed:
        grid_mixed(x, *x_place, y, *y_place, steps, rows, columns)
    elif clipped:
        grid_clipped(x, *x_place, y, *y_place, steps, rows, columns)
    else:
        grid(x, *x_place, y, *y_place, steps, rows, columns)


@numba.njit  # code from the cache cannot be inspected
def _negated(x):  # type: ignore[no-untyped-def]
    y = np.empty_like(x)
    for k in range(x.size):
        y[k] = -x[k]
    return y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_micro_kernel(dtype: type) -> None:
    rng, panel = np.random.default_rng(0), PANEL_BYTES // np.dtype(dtype).itemsize
    a, b = rng.standard_normal(100).astype(dtype), rng.standard_normal((7, panel)).astype(dtype)
    c, d = rng.standard_normal((3, panel)).astype(dtype), np.full((3, panel), np.nan, dtype)
    rows, offsets = np.array([0, 13, 40]), np.array([5, 1, 0, 9, 59, 3, 3])
    _multiply(a, rows, offsets, b.reshape(-1), panel, c.reshape(-1), d.reshape(-1))
    wanted = c.astype(np.float64) + a.astype(np.float64)[rows[:, None] + offsets] @ b.astype(np.float64)
    assert_close(d, wanted, terms=8)


@pytest.mark.parametrize("by_vectors", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_micro_kernel_with_rows_at_equal_distances(dtype: type, by_vectors: bool) -> None:
    rng, panel = np.random.default_rng(0), PANEL_BYTES // np.dtype(dtype).itemsize
    a, b = rng.standard_normal(100).astype(dtype), rng.standard_normal((7, panel)).astype(dtype)
    c, d = rng.standard_normal((3, panel)).astype(dtype), np.full((3, panel), np.nan, dtype)
    offsets = np.array([5, 1, 0, 9, 59, 3, 3])
    _multiply_apart(by_vectors, a, 4, offsets, b.reshape(-1), panel, c.reshape(-1), d.reshape(-1))
    rows = 4 + np.arange(3)[:, None] * (panel // PANEL_VECTORS if by_vectors else 1)
    wanted = c.astype(np.float64) + a.astype(np.float64)[rows + offsets] @ b.astype(np.float64)
    assert_close(d, wanted, terms=8)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transform_to_points(dtype: type, mixed: bool) -> None:
    """Of two vectors of channels."""
    rng, lanes = np.random.default_rng(0), VECTOR_BYTES // np.dtype(dtype).itemsize
    entries = rng.standard_normal((3, 4, 2 * lanes)).astype(dtype)  # the last column is not part of it
    source = np.concatenate([np.full(3, np.nan, dtype), entries.reshape(-1)])
    points = 5 if mixed else 4
    target = np.full(1 + 2 * points * lanes, 7, dtype)  # one of the vectors, then the other
    _to_points(mixed, source, (3, 4 * 2 * lanes, 2 * lanes), target, (1, lanes, points * lanes), 2)
    m, x = np.array(FACTORS[1]) @ np.array(FACTORS[0]), entries[:, :3].astype(np.float64)
    wanted = np.einsum("ik,klc,jl->ijc", m, x, m).reshape(4, 2 * lanes)
    if mixed:
        wanted = np.array(MIX) @ wanted
    assert target[0] == 7
    found = target[1:].reshape(2, points, lanes).transpose(1, 0, 2).reshape(points, 2 * lanes)
    assert_close(found, wanted, terms=9, scale=float(np.abs(wanted).max()) * 8)


@pytest.mark.parametrize("corner", [None, (2, 2), (7, 1), (1, 9)])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transform_from_points(dtype: type, mixed: bool, corner: tuple[int, int] | None) -> None:
    """Of two vectors of channels. If only a corner of the result is wanted, nothing else is touched."""
    rng, lanes = np.random.default_rng(0), VECTOR_BYTES // np.dtype(dtype).itemsize
    points = rng.standard_normal((4 if mixed else 9, 2 * lanes)).astype(dtype)
    source = np.concatenate([np.full(3, np.nan, dtype), points.reshape(-1)])
    target = np.full(1 + 2 * 3 * 2 * lanes, 7, dtype)  # the last column is not part of it
    rows, columns = corner or (0, 0)
    y_place = 1, 3 * 2 * lanes, 2 * lanes
    _from_points(mixed, corner is not None, source, (3, 2 * lanes), target, y_place, 2, rows, columns)
    x = points.astype(np.float64)
    grid = (np.array(MIX_BACK) @ x if mixed else x).reshape(3, 3, 2 * lanes)
    m = np.array(FACTORS[1]) @ np.array(FACTORS[0])
    wanted = np.einsum("ik,klc,jl->ijc", m, grid, m)
    assert target[0] == 7
    found = target[1:].reshape(2, 3, 2 * lanes)
    assert (found[:, 2] == 7).all()
    for i, j in np.ndindex(2, 2):
        if corner is None or (i < rows and j < columns):
            assert_close(found[i, j], wanted[i, j], terms=9, scale=float(np.abs(wanted).max()) * 8)
        else:
            assert (found[i, j] == 7).all()


@pytest.mark.parametrize(("width", "dtype"), [(16, np.float32), (16, np.float64), (64, np.float32)])
def test_other_processors(width: int, dtype: type, tmp_path: Path) -> None:
    """Convolutions and products compiled for vectors of 128 and of 512 bits agree with the reference.

    Code for 512 bits does not run everywhere, so there LLVM is told of the width alone and makes two vectors of each.
    """
    program = (
        "import sys, numpy as np, gpunet.ops._simd as simd\n"
        f"assert {width} == 64 or simd.VECTOR_BYTES == {width}, simd.VECTOR_BYTES\n"
        f"simd.VECTOR_BYTES, simd.PANEL_BYTES = {width}, {2 * width}\n"
        "from gpunet.ops import conv2d, conv2d_backward\n"
        "x, w, dy = np.load(sys.argv[1]).values()\n"
        "dx, dw, _ = conv2d_backward(dy, x, w, padding=1, needs=('x', 'weight'))\n"
        "a, b = np.ascontiguousarray(x[:, 0, 0]), np.ascontiguousarray(w[0, :2].reshape(64, -1)[:, :37])\n"
        "a = np.concatenate([a, a], axis=1)\n"
        "from gpunet.ops._matmul import matmul\n"
        "at, bt = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)\n"
        "products = matmul(a, b), matmul(at, b, trans_a=True), matmul(a, bt, trans_b=True)\n"
        "products += (matmul(a, np.ascontiguousarray(a[:, :5]), trans_a=True),)\n"
        "np.savez(sys.argv[2], conv2d(x, w, padding=1), dx, dw, conv2d(x[:1], w, padding=1), *products)\n"
    )
    rng = np.random.default_rng(0)
    x, w, dy = (
        rng.standard_normal((22, 7, 7, 32)),
        rng.standard_normal((3, 3, 32, 64)),
        rng.standard_normal((22, 7, 7, 64)),
    )
    rounded = [array.astype(dtype) for array in (x, w, dy)]
    np.savez(tmp_path / "in.npz", *rounded)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(Path.cwd())}
    if width == 16:
        environment |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    files = [str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", program, *files], env=environment, check=True)
    x, w, dy = (array.astype(np.float64) for array in rounded)
    dx, dw, _ = reference.conv2d_backward(dy, x, w, padding=1)
    a = np.concatenate([x[:, 0, 0]] * 2, axis=1)
    products = [a @ w[0, :2].reshape(64, -1)[:, :37]] * 3 + [a.T @ a[:, :5]]
    wanted = [reference.conv2d(x, w, padding=1), dx, dw, reference.conv2d(x[:1], w, padding=1), *products]
    with np.load(files[1]) as found:
        for name, exact in zip(found.files, wanted, strict=True):
            assert exact is not None and np.isfinite(found[name]).all()
            assert found[name].dtype == dtype
            bound = 200 if exact.ndim == 4 else 42  # convolutions are Winograd's, in tiles of 7x7
            assert np.linalg.norm(found[name] - exact) <= bound * np.finfo(dtype).eps * np.linalg.norm(exact)


def test_loops_are_vectorised_for_whole_vectors() -> None:
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    _negated(x)
    assembly = _negated.inspect_asm(_negated.signatures[0])
    register = {16: "xmm", 32: "ymm", 64: "zmm"}[VECTOR_BYTES]
    assert register in assembly or "xmm" not in assembly, "of a processor with other names of registers"
