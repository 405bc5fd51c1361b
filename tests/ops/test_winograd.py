"""Winograd's minimal filtering: its matrices exactly, the algorithm against the reference, its error, its bits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.errors import ShapeError
from gpunet.ops._simd import PANEL_BYTES
from gpunet.ops.conv2d import conv2d, conv2d_backward, cpu, reference
from gpunet.ops.conv2d.cpu import winograd
from gpunet.ops.conv2d.cpu.cook_toom import MinimalFilter, minimal_filter, transposed
from gpunet.ops.geometry import Conv2dGeometry
from tests.ops.test_conv2d import check_against_reference, choose_always

PANEL = PANEL_BYTES // np.dtype(np.float32).itemsize
"""Channels of a panel, which depend on the processor's vectors: Winograd takes multiples of them."""


@pytest.mark.parametrize("m", [3, 4])
def test_matrices_are_exact(m: int) -> None:
    """In fractions, A^T [(G g) * (B^T d)] is the filter's output, for unit filters and inputs: so for all."""
    f = minimal_filter(m)
    assert (len(f.inputs), len(f.taps), len(f.outputs)) == (m + 2, m + 2, m)
    for tap in range(3):
        for entry in range(m + 2):
            products = [row[tap] * point[entry] for row, point in zip(f.taps, f.inputs, strict=True)]
            outputs = [sum((a * b for a, b in zip(row, products, strict=True)), Fraction(0)) for row in f.outputs]
            assert outputs == [int(entry == i + tap) for i in range(m)]


@pytest.mark.parametrize("m", [3, 4])
def test_matrices_of_maps_are_exact_in_float32(m: int) -> None:
    f = minimal_filter(m)
    for entry in [entry for row in [*f.inputs, *f.outputs] for entry in row]:
        assert Fraction(float(np.float32(float(entry)))) == entry


def amplification(f: MinimalFilter) -> float:
    """How much larger the sum of absolute values behind an output can be than that of the plain sum, in 2-D.

    The rounding error of a bilinear algorithm is bounded by that sum (Higham, section 23.2.2, for Winograd's products).
    """
    a, b, g = (np.abs(np.array(matrix, float)) for matrix in (f.outputs, f.inputs, f.taps))
    forward = (a @ (g.sum(1) * b.sum(1))).max() / 3
    weights = (g.T @ (b.sum(1) * a.T.sum(1))).max() / len(a)
    return float(max(forward, weights)) ** 2


AMPLIFICATION = max(amplification(minimal_filter(m)) for m in (3, 4))


@settings(max_examples=200)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.sampled_from([PANEL, 2 * PANEL]), st.sampled_from([PANEL, 2 * PANEL, 3 * PANEL])),
    padding=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10_000),
)
def test_matches_reference(sizes: Any, channels: Any, padding: Any, dtype: Any, seed: int) -> None:
    options = {"stride": 1, "padding": padding, "dilation": 1, "groups": 1}
    x, weight = (*sizes, channels[0]), (3, 3, *channels)
    try:
        g = Conv2dGeometry.of(x, weight, **options)
    except ShapeError:
        assume(False)
    assume(winograd.applies(g))
    case = {"x": x, "weight": weight, "options": options, "dtype": dtype, "seed": seed}
    with pytest.MonkeyPatch.context() as patch:
        choose_always("winograd", patch)
        patch.setattr(cpu, "without_dead_taps", lambda g: (g, (slice(None), slice(None))))  # it wants whole kernels
        check_against_reference(case, AMPLIFICATION)


@pytest.mark.parametrize("shape", [(1, 5, 2100), (9, 13, 14), (300, 3, 3)])
def test_gradient_of_the_weights_in_parts(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of maps with few rows of many tiles, of a few chunks in a part, of a last chunk that is not whole."""
    monkeypatch.setattr(winograd, "_PART_TILES", 40)
    monkeypatch.setattr(winograd.aligned, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))  # all is written
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((*shape, PANEL), np.float32) for _ in range(2))
    g = Conv2dGeometry.of(x.shape, (3, 3, PANEL, PANEL), padding=1)
    dweight = np.full(g.weight_shape, np.nan, np.float32)
    winograd.weight_gradient(x, dy, g, dweight)
    weight = np.zeros(g.weight_shape)
    wanted = reference.conv2d_backward(dy.astype(np.float64), x.astype(np.float64), weight, padding=1)[1]
    assert np.isfinite(dweight).all()
    assert np.linalg.norm(dweight - wanted) <= 3e-6 * np.linalg.norm(wanted)


def test_sizes_of_tiles() -> None:
    assert [winograd.tile_size(size, size) for size in (3, 4, 6, 7, 8, 14, 28)] == [3, 4, 3, 4, 4, 4, 4]


def test_applies_to_plain_3x3_of_whole_panels() -> None:
    x = (2, 8, 8, 2 * PANEL)
    plain = (3, 3, 2 * PANEL, PANEL)
    assert winograd.applies(Conv2dGeometry.of(x, plain, padding=1))
    assert winograd.applies(Conv2dGeometry.of(x, (3, 3, PANEL, 2 * PANEL), groups=2))
    for weight, options in [
        ((3, 3, 2 * PANEL, PANEL + PANEL // 2), {}),
        ((5, 5, 2 * PANEL, PANEL), {}),
        (plain, {"stride": 2}),
        (plain, {"dilation": 2}),
        ((3, 3, PANEL, PANEL), {"groups": 2}),
    ]:
        assert not winograd.applies(Conv2dGeometry.of(x, weight, **options))


@pytest.mark.parametrize(("size", "channels", "filters"), [(14, 32, 64), (7, 64, 128), (3, 128, 256)])
def test_error_at_the_network_shapes(size: int, channels: int, filters: int) -> None:
    """In float32 the relative error in the 2-norm stays under 3e-6."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, size, size, channels))
    weight = rng.standard_normal((3, 3, channels, filters)) / np.sqrt(9 * channels)
    dy = rng.standard_normal((24, size, size, filters))
    single = [array.astype(np.float32) for array in (x, weight, dy)]
    x, weight, dy = (array.astype(np.float64) for array in single)
    assert cpu._choose("forward", Conv2dGeometry.of(x.shape, weight.shape, padding=1)) == "winograd"
    actual = conv2d(*single[:2], padding=1), *conv2d_backward(single[2], *single[:2], padding=1)[:2]
    wanted = reference.conv2d(x, weight, padding=1), *reference.conv2d_backward(dy, x, weight, padding=1)[:2]
    for found, exact in zip(actual, wanted, strict=True):
        assert found is not None and exact is not None and np.isfinite(found).all()
        assert np.linalg.norm(found - exact) <= 3e-6 * np.linalg.norm(exact)


def test_a_nan_is_not_lost() -> None:
    x, weight = np.ones((20, 8, 8, PANEL), np.float32), np.ones((3, 3, PANEL, PANEL), np.float32)
    assert cpu._choose("forward", Conv2dGeometry.of(x.shape, weight.shape, padding=1)) == "winograd"
    x[3, 4, 4, 5] = np.nan
    y = conv2d(x, weight, padding=1)
    assert np.isnan(y[3, 3:6, 3:6]).all() and np.isfinite(y[[0, 1, 2, 4]]).all()


def test_bits_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((70, 7, 7, 2 * PANEL), np.float32)
    weight = rng.standard_normal((3, 3, 2 * PANEL, 3 * PANEL), np.float32)
    assert cpu._choose("forward", Conv2dGeometry.of(x.shape, weight.shape, padding=1)) == "winograd"
    threads, results = numba.get_num_threads(), []
    for count in {1, threads}:
        numba.set_num_threads(count)
        try:
            y = conv2d(x, weight, padding=1)
            results.append([y, *conv2d_backward(y, x, weight, padding=1)])
        finally:
            numba.set_num_threads(threads)
    for first, second in zip(results[0], results[-1], strict=True):
        assert first is not None and second is not None and first.tobytes() == second.tobytes()


def test_transposition() -> None:
    assert transposed([[Fraction(1), Fraction(2)]]) == [[Fraction(1)], [Fraction(2)]]
