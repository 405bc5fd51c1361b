"""Winograd's minimal filtering: its matrices exactly, the algorithm against the reference, its error, its bits."""

from __future__ import annotations

import functools
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
from gpunet.ops.conv2d.cpu import cyclic_filter as cyclic
from gpunet.ops.conv2d.cpu import winograd
from gpunet.ops.conv2d.cpu.cook_toom import input_factors, minimal_filter, paired, transposed
from gpunet.ops.conv2d.cpu.winograd_tiles import Tile, tile_of
from gpunet.ops.geometry import Conv2dGeometry
from tests.ops.test_conv2d import check_against_reference, choose_always

PANEL = PANEL_BYTES // np.dtype(np.float32).itemsize
"""Channels of a panel, which depend on the processor's vectors: Winograd takes multiples of them."""


FILTERS = [(2, 5), (3, 3), (4, 3), (5, 3), (7, 3)]
"""m and r."""
CYCLIC = [cyclic.INPUTS], [cyclic.TAPS], [cyclic.OUTPUTS]
MIXES = cyclic.INPUT_MIX, cyclic.TAP_MIX, cyclic.OUTPUT_MIX


def product(factors: Any) -> np.ndarray:
    """Of matrices of fractions, the first one of which is applied first."""
    return functools.reduce(
        lambda total, factor: np.array(factor, object) @ total, factors[1:], np.array(factors[0], object)
    )


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_matrices_are_exact(m: int, r: int) -> None:
    """In fractions, A^T [(G g) * (B^T d)] is the filter's output, for unit filters and inputs: so for all."""
    f, n = minimal_filter(m, r), m + r - 1
    assert (len(f.inputs), len(f.taps), len(f.outputs)) == (n, n, m)
    for tap in range(r):
        for entry in range(n):
            products = [row[tap] * point[entry] for row, point in zip(f.taps, f.inputs, strict=True)]
            outputs = [sum((a * b for a, b in zip(row, products, strict=True)), Fraction(0)) for row in f.outputs]
            assert outputs == [int(entry == i + tap) for i in range(m)]


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_factors_are_exact_and_save_operations(m: int, r: int) -> None:
    f = minimal_filter(m, r)
    outputs = transposed(f.outputs)
    for matrix, factors in [(f.inputs, input_factors(f)), (f.taps, paired(f.taps)), (outputs, paired(outputs))]:
        assert (product(factors) == np.array(matrix, object)).all()
        assert sums(factors) <= sums([matrix])
    saved = {2: (16, 12), 3: (12, 12), 4: (16, 12), 5: (28, 20), 7: (53, 35)}[m]
    assert (sums([f.inputs]), sums(input_factors(f))) == saved


def sums(factors: Any) -> int:
    """Additions that products with these matrices take."""
    return sum(sum(map(bool, row)) - 1 for factor in factors for row in factor)


def test_cyclic_filter_is_exact() -> None:
    """In fractions, for unit kernels and maps: so for all."""
    inputs, taps, outputs = (np.array(factors[0], object) for factors in CYCLIC)
    input_mix, tap_mix, output_mix = map(product, MIXES)
    assert len(input_mix) == len(tap_mix) == cyclic.POINTS == output_mix.shape[1]
    for k, tap in np.ndindex(9, 9):
        x, g = np.zeros((3, 3), int), np.zeros((3, 3), int)
        x.flat[k] = g.flat[tap] = 1
        points = (input_mix @ (inputs @ x @ inputs.T).ravel()) * (tap_mix @ (taps @ g @ taps.T).ravel())
        y = outputs @ (output_mix @ points).reshape(4, 4) @ outputs.T
        padded = np.pad(x, 1)
        assert (y == [[(padded[i : i + 3, j : j + 3] * g).sum() for j in range(3)] for i in range(3)]).all()


def test_filters_of_as_many_points_share_the_transform_of_the_inputs() -> None:
    assert minimal_filter(2, 5).inputs == minimal_filter(4, 3).inputs


@pytest.mark.parametrize(("m", "r"), FILTERS)
def test_matrices_of_maps_are_exact_in_float32(m: int, r: int) -> None:
    f = minimal_filter(m, r)
    for factor in [*input_factors(f), *paired(transposed(f.outputs))]:
        for entry in [entry for row in factor for entry in row]:
            assert Fraction(float(np.float32(float(entry)))) == entry


def amplification(inputs: np.ndarray, taps: np.ndarray, outputs: np.ndarray) -> float:
    """How much larger the sum of absolute values behind an output can be than that of the plain sum.

    The rounding error of a bilinear algorithm is bounded by that sum (Higham, section 23.2.2, for Winograd's products).
    The matrices are absolute values; they map all entries of a tile, window or kernel to all points, or back.
    """
    forward = (outputs @ (taps.sum(1) * inputs.sum(1))).max() / taps.shape[1]
    weights = (taps.T @ (inputs.sum(1) * outputs.T.sum(1))).max() / len(outputs)
    return float(max(forward, weights))


def absolute(factors: Any) -> np.ndarray:
    return product([np.abs(np.array(factor, object)) for factor in factors]).astype(float)


def amplification_of(tile: Tile) -> float:
    if tile.points == cyclic.POINTS:
        inputs, taps = (
            absolute(mix) @ np.kron(absolute(factors), absolute(factors))
            for mix, factors in zip(MIXES[:2], CYCLIC[:2], strict=True)
        )
        outputs = np.kron(absolute(CYCLIC[2]), absolute(CYCLIC[2])) @ absolute(MIXES[2])
        return amplification(inputs, taps, outputs)
    f = minimal_filter(tile.m, tile.n - tile.m + 1)
    outputs = absolute(paired(transposed(f.outputs))).T
    return amplification(absolute(input_factors(f)), absolute(paired(f.taps)), outputs) ** 2


@settings(max_examples=200)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.sampled_from([PANEL, 2 * PANEL]), st.sampled_from([PANEL, 2 * PANEL, 3 * PANEL])),
    size=st.sampled_from([3, 5]),
    padding=st.tuples(*[st.tuples(st.integers(0, 5), st.integers(0, 5))] * 2),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10_000),
)
def test_matches_reference(sizes: Any, channels: Any, size: int, padding: Any, dtype: Any, seed: int) -> None:
    options = {"stride": 1, "padding": padding, "dilation": 1, "groups": 1}
    x, weight = (*sizes, channels[0]), (size, size, *channels)
    try:
        g = Conv2dGeometry.of(x, weight, **options)
    except ShapeError:
        assume(False)
    assume(winograd.applies(g))
    case = {"x": x, "weight": weight, "options": options, "dtype": dtype, "seed": seed}
    with pytest.MonkeyPatch.context() as patch:
        choose_always("winograd", patch)
        patch.setattr(cpu, "without_dead_taps", lambda g: (g, (slice(None), slice(None))))  # it wants whole kernels
        check_against_reference(case, amplification_of(tile_of(g)))


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(1, 5, 2100), (9, 13, 14), (300, 3, 3)])
def test_gradient_of_the_weights_in_parts(
    shape: tuple[int, int, int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of maps with few rows of many tiles, of a few chunks in a part, of a last chunk that is not whole."""
    monkeypatch.setattr(winograd, "_PART_TILES", 40)
    monkeypatch.setattr(winograd.aligned, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))  # all is written
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((*shape, PANEL), np.float32) for _ in range(2))
    padding = size // 2
    g = Conv2dGeometry.of(x.shape, (size, size, PANEL, PANEL), padding=padding)
    dweight = np.full(g.weight_shape, np.nan, np.float32)
    winograd.weight_gradient(x, dy, g, dweight)
    weight = np.zeros(g.weight_shape)
    wanted = reference.conv2d_backward(dy.astype(np.float64), x.astype(np.float64), weight, padding=padding)[1]
    assert np.isfinite(dweight).all()
    bound = {2: 6e-6, 3: 8e-6, 5: 8e-6, 7: 3e-5}[tile_of(g).m]
    assert np.linalg.norm(dweight - wanted) <= bound * np.linalg.norm(wanted)


def test_sizes_of_tiles() -> None:
    def tile(size: int, kernel: int, padding: int) -> Tile:
        return tile_of(Conv2dGeometry.of((1, size, size, PANEL), (kernel, kernel, PANEL, PANEL), padding=padding))

    assert [tile(size, 3, 1).m for size in (3, 4, 5, 6, 7, 8, 13, 14, 15, 20, 28)] == [3, 4, 5, 3, 7, 4, 7, 7, 5, 5, 7]
    assert [tile(size, 3, 1).points for size in (3, 4, 6, 10, 14)] == [22, 36, 25, 49, 81]
    assert tile(5, 3, 0) == (3, 5, 25)  # of a map that has no zeros around it
    assert [tile(size, 5, 2).m for size in (3, 14)] == [2, 2]


@pytest.mark.parametrize(
    ("size", "kernel", "pays"), [(2, 3, False), (3, 3, True), (3, 5, False), (4, 5, True), (14, 5, True)]
)
def test_it_is_not_chosen_where_most_taps_are_on_the_padding(size: int, kernel: int, pays: bool) -> None:
    g = Conv2dGeometry.of((100, size, size, PANEL), (kernel, kernel, PANEL, PANEL), padding=kernel // 2)
    assert winograd.applies(g) and winograd.pays_off(g) == pays


def test_applies_to_plain_kernels_and_whole_panels() -> None:
    x = (2, 8, 8, 2 * PANEL)
    plain = (3, 3, 2 * PANEL, PANEL)
    assert winograd.applies(Conv2dGeometry.of(x, plain, padding=1))
    assert winograd.applies(Conv2dGeometry.of(x, (5, 5, 2 * PANEL, PANEL), padding=1))
    assert winograd.applies(Conv2dGeometry.of(x, (3, 3, PANEL, 2 * PANEL), groups=2))
    for weight, options in [
        ((3, 3, 2 * PANEL, PANEL + PANEL // 2), {}),
        ((3, 5, 2 * PANEL, PANEL), {}),
        ((4, 4, 2 * PANEL, PANEL), {}),
        (plain, {"stride": 2}),
        (plain, {"dilation": 2}),
        ((3, 3, PANEL, PANEL), {"groups": 2}),
    ]:
        assert not winograd.applies(Conv2dGeometry.of(x, weight, **options))


@pytest.mark.parametrize(
    ("size", "channels", "filters", "kernel"), [(14, 32, 64, 3), (7, 64, 128, 3), (3, 128, 256, 3), (14, 32, 64, 5)]
)
def test_error_at_the_network_shapes(size: int, channels: int, filters: int, kernel: int) -> None:
    """In float32 the relative error in the 2-norm stays under 3e-6, with tiles of 7 x 7 under 3e-5."""
    rng, padding = np.random.default_rng(0), kernel // 2
    x = rng.standard_normal((24, size, size, channels))
    weight = rng.standard_normal((kernel, kernel, channels, filters)) / np.sqrt(kernel**2 * channels)
    dy = rng.standard_normal((24, size, size, filters))
    single = [array.astype(np.float32) for array in (x, weight, dy)]
    x, weight, dy = (array.astype(np.float64) for array in single)
    g, options = Conv2dGeometry.of(x.shape, weight.shape, padding=padding), {"padding": padding}
    assert cpu._choose("forward", g) == "winograd"
    actual = conv2d(*single[:2], **options), *conv2d_backward(single[2], *single[:2], **options)[:2]
    wanted = reference.conv2d(x, weight, **options), *reference.conv2d_backward(dy, x, weight, **options)[:2]
    bound = 3e-5 if tile_of(g).m == 7 else 3e-6
    for found, exact in zip(actual, wanted, strict=True):
        assert found is not None and exact is not None and np.isfinite(found).all()
        assert np.linalg.norm(found - exact) <= bound * np.linalg.norm(exact)


def test_a_nan_is_not_lost() -> None:
    x, weight = np.ones((20, 8, 8, PANEL), np.float32), np.ones((3, 3, PANEL, PANEL), np.float32)
    assert cpu._choose("forward", Conv2dGeometry.of(x.shape, weight.shape, padding=1)) == "winograd"
    x[3, 4, 4, 5] = np.nan
    y = conv2d(x, weight, padding=1)
    assert np.isnan(y[3, 3:6, 3:6]).all() and np.isfinite(y[[0, 1, 2, 4]]).all()


def test_bits_do_not_depend_on_threads() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((70, 8, 7, 2 * PANEL), np.float32)
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
