"""How products are cut into thread blocks: what any plan must keep, and plain cases whose best plan is clear."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.cuda import specialisations
from gpunet.ops.conv2d.gemm_plan import TILE_K, plan, precision_name

PRECISIONS = ["float32", "tf32", "float64"]
SIZES = st.integers(1, 10**6)


@given(rows=SIZES, columns=SIZES, k=SIZES, precision=st.sampled_from(PRECISIONS), most=st.integers(1, 88))
def test_a_plan_covers_the_result_and_its_slices_are_long_enough(
    rows: int, columns: int, k: int, precision: str, most: int
) -> None:
    found = plan(rows, columns, k, precision, max_slices=most)
    for size, tile, tiles in zip((rows, columns), found.tile, found.tiles, strict=True):
        assert (tiles - 1) * tile < size <= tiles * tile
    assert 1 <= found.slices <= most
    assert found.slices == 1 or math.ceil(k / TILE_K) // found.slices >= 2


def test_a_result_of_many_tiles_is_not_sliced() -> None:
    assert plan(10**6, 64, 10**4, "float32", max_slices=16).slices == 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_long_sums_of_one_tile_are_sliced(precision: str) -> None:
    assert plan(64, 64, 10**5, precision, max_slices=88).slices > 60


def test_rows_without_anything_to_sum_do_not_count_as_work() -> None:
    busy, idle = (plan(9 * 64, 64, 10**4, "float32", max_slices=88, busy_rows=rows) for rows in (9 * 64, 64))
    assert idle.slices > busy.slices


def test_narrow_results_have_narrow_tiles() -> None:
    assert plan(10**5, 32, 576, "float32", max_slices=16).tile == (128, 32)


def test_every_tile_is_compiled_ahead() -> None:
    compiled = {
        (int(defines["TILE_M"]), int(defines["TILE_N"]), "TF32" in defines, defines["REAL"])
        for defines in map(dict, specialisations("conv2d_gemm"))
    }
    shapes = [(10**6, 64), (10**6, 32), (64, 64)]
    wanted = {
        (*plan(*shape, 10**3, precision, max_slices=16).tile, precision == "tf32", real)
        for shape in shapes
        for precision, real in (("float32", "float"), ("tf32", "float"), ("float64", "double"))
    }
    assert wanted == compiled


def test_the_depth_of_a_tile_is_the_kernels() -> None:
    text = (Path(__file__).parents[2] / "kernels" / "gemm.cuh").read_text()
    assert re.findall(r"#define TILE_K (\d+)", text) == [str(TILE_K)]


def test_precision_names() -> None:
    assert precision_name(np.dtype(np.float64), "tf32") == "float64"
    assert precision_name(np.dtype(np.float32), "tf32") == "tf32"
