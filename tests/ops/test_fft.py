"""Convolution by FFT: its transforms against NumPy's, the algorithm against the reference, its error, its bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.errors import ShapeError
from gpunet.ops._numba import jit
from gpunet.ops._simd import PANEL_BYTES, VECTOR_BYTES
from gpunet.ops.conv2d import conv2d, conv2d_backward, cpu, reference
from gpunet.ops.conv2d.cpu import fft, fft_tiling
from gpunet.ops.conv2d.cpu.fft_transform import points_of
from gpunet.ops.conv2d.cpu.fft_windows import from_points, from_slots, points_before, to_conjugates, to_points, to_slots
from gpunet.ops.conv2d_inference import conv2d_inference
from gpunet.ops.geometry import Conv2dGeometry
from tests.ops.test_conv2d import check_against_reference, choose_always
from tests.ops.test_conv2d_inference import arguments, check
from tests.support import assert_close

PANEL = PANEL_BYTES // np.dtype(np.float32).itemsize
"""Channels of a panel, which depend on the processor's vectors: the FFT takes multiples of them."""
ERRORS = 8.0
"""How many times as large as those of a plain sum its rounding errors may be: each sum is of Gauss's three products,
whose terms are up to twice as large, and there are log2(n) stages of either transform."""


@jit
def _transform(n, x, there, conjugate, points, slots, lanes):
    """All of an n x n window of two vectors of channels, of which `there` (top, left, bottom, right) is not zero."""
    top, left, bottom, right = there
    width = 2 * lanes
    source, target = (x, left * width, n * width, width), (slots, left * width, n * width, width)
    to_slots(n, source, right - left, top, bottom, target, 2)
    for group in range(n // 2):
        row = slots, 2 * group * n * width, n * width, width, left, right
        place = points, points_before(n, group) * width, width, lanes, 2
        if conjugate:
            to_conjugates(n, group, *row, *place)
        else:
            to_points(n, group, *row, *place)


@jit
def _inverse(n, points, rows, columns, slots, y, lanes):
    width = 2 * lanes
    for group in range(n // 2):
        place = slots, 2 * group * n * width, n * width, width, 2, columns
        from_points(n, group, points, points_before(n, group) * width, width, *place)
    from_slots(n, (slots, 0, n * width, width), columns, (y, 0, n * width, width), 2, rows)


def complex_of(points: np.ndarray, n: int) -> dict[tuple[int, int], np.ndarray]:
    """The numbers of a transform, by frequency, from its points."""
    found, at = {}, 0
    for k in (0, n // 2):
        found[k, 0], found[k, n // 2], at = points[at] + 0j, points[at + 1] + 0j, at + 2
        for j in range(1, n // 2):
            found[k, j], at = points[at] + 1j * points[at + 1], at + 3
    for k in range(1, n // 2):
        for j in range(n):
            found[k, j], at = points[at] + 1j * points[at + 1], at + 3
    assert at == len(points) == points_of(n)
    return found


@pytest.mark.parametrize("there", [(0, 0, 8, 8), (1, 2, 8, 7), (3, 0, 4, 1)])
@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [8, 16])
def test_points_are_those_of_numpy(n: int, dtype: type, conjugate: bool, there: tuple[int, ...]) -> None:
    """The real and the imaginary part and their sum, of what is there; the rest of the window is not read."""
    rng, lanes = np.random.default_rng(0), VECTOR_BYTES // np.dtype(dtype).itemsize
    there = tuple(number * n // 8 for number in there)
    inner = slice(there[0], there[2]), slice(there[1], there[3])
    window, padded = np.full((n, n, 2 * lanes), np.nan, dtype), np.zeros((n, n, 2 * lanes))
    window[inner] = rng.standard_normal(window[inner].shape)
    padded[inner] = window[inner]
    points = np.full((points_of(n), 2 * lanes), np.nan, dtype)
    slots = np.full(window.size, np.nan, dtype)
    _transform(n, window.reshape(-1), there, conjugate, points.reshape(-1), slots, lanes)
    wanted = np.fft.fft2(padded, axes=(0, 1))
    if conjugate:
        wanted = wanted.conj() / n**2
    scale = float(np.abs(padded).sum((0, 1)).max()) / (n**2 if conjugate else 1)
    for (k, j), number in complex_of(points, n).items():
        assert_close(number.real, wanted[k, j].real, terms=n, scale=scale)
        assert_close(number.imag, wanted[k, j].imag, terms=n, scale=scale)
    for first in (2, points_of(n) - 3):  # triples of the real and of the complex rows
        total = points[first].astype(np.float64) + points[first + 1]
        assert_close(points[first + 2], total, terms=2, scale=scale)


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (7, 6), (1, 1), (3, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [8, 16])
def test_products_of_points_are_periodic_sums(n: int, dtype: type, rows: int, columns: int) -> None:
    """Of a window's points and the conjugates of another's; nothing but the rows and columns wanted is written."""
    rng, lanes = np.random.default_rng(1), VECTOR_BYTES // np.dtype(dtype).itemsize
    windows = rng.standard_normal((2, n, n, 2 * lanes)).astype(dtype)
    points, slots = np.empty((2, points_of(n) * 2 * lanes), dtype), np.empty(windows[0].size, dtype)
    for k in range(2):
        _transform(n, windows[k].reshape(-1), (0, 0, n, n), k == 1, points[k], slots, lanes)
    y = np.full((n, n, 2 * lanes), 7, dtype)
    _inverse(n, points[0] * points[1], rows, columns, slots, y.reshape(-1), lanes)
    x, w = windows.astype(np.float64)
    wanted = np.zeros((n, n, 2 * lanes))
    for i, j in np.ndindex(n, n):
        wanted += w[i, j] * np.roll(x, (-i, -j), (0, 1))
    assert_close(y[:rows, :columns], wanted[:rows, :columns], terms=n**2, scale=ERRORS * float(np.abs(wanted).max()))
    y[:rows, :columns] = 7
    assert (y == 7).all()


@settings(max_examples=200)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    channels=st.tuples(st.sampled_from([PANEL, 2 * PANEL]), st.sampled_from([PANEL, 2 * PANEL, 3 * PANEL])),
    kernel=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    padding=st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 9))] * 2),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10_000),
)
def test_matches_reference(sizes: Any, channels: Any, kernel: Any, padding: Any, dtype: Any, seed: int) -> None:
    options = {"stride": 1, "padding": padding, "dilation": 1, "groups": 1}
    x, weight = (*sizes, channels[0]), (*kernel, *channels)
    try:
        g = Conv2dGeometry.of(x, weight, **options)
    except ShapeError:
        assume(False)
    assume(fft_tiling.applies(g))
    case = {"x": x, "weight": weight, "options": options, "dtype": dtype, "seed": seed}
    with pytest.MonkeyPatch.context() as patch:
        choose_always("fft", patch)
        check_against_reference(case, ERRORS)


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 30), st.integers(2, 20), st.integers(2, 20)),
    kernel=st.sampled_from([(3, 3), (5, 5), (2, 4)]),
    following=st.fixed_dictionaries({name: st.booleans() for name in ("bias", "norm", "relu", "max_pool")}),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 10_000),
)
def test_inference_matches_reference(
    sizes: Any, kernel: Any, following: dict[str, bool], dtype: Any, seed: int
) -> None:
    """With an epilogue: tasks of several images, of one, and maps of which not even one is a task."""
    case = {"x": (*sizes, PANEL), "weight": (*kernel, PANEL, 2 * PANEL), "options": {"padding": "same"}}
    case |= {"dtype": dtype, "seed": seed, "following": following}
    arrays, options = arguments(case, dtype)
    with pytest.MonkeyPatch.context() as patch:
        choose_always("fft", patch)
        check(case, conv2d_inference(**arrays, **options), ERRORS)


def test_groups() -> None:
    """Forward, of which each group has whole panels of channels."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 9, 7, 2 * PANEL))
    weight = rng.standard_normal((5, 5, PANEL, 6 * PANEL))
    g = Conv2dGeometry.of(x.shape, weight.shape, padding=2, groups=2)
    assert cpu._choose("forward", g) == "fft"
    y, wanted = (convolve(x, weight, padding=2, groups=2) for convolve in (conv2d, reference.conv2d))
    assert_close(y, wanted, terms=25 * PANEL, scale=ERRORS * float(np.abs(wanted).max()))


def test_gradient_of_the_weights_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few blocks each, the last of which are not whole; all that is read was written before."""
    monkeypatch.setattr(fft, "_CHUNK_BYTES", 2**18)
    monkeypatch.setattr(fft, "_BLOCK_BYTES", 2**16)
    monkeypatch.setattr(fft.aligned, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
    rng = np.random.default_rng(0)
    for shape in ((50, 7, 7, PANEL), (5, 21, 30, PANEL)):
        x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
        g = Conv2dGeometry.of(shape, (5, 5, PANEL, PANEL), padding=2)
        dweight = np.full(g.weight_shape, np.nan, np.float32)
        fft.weight_gradient(x, dy, g, dweight)
        exact = dy.astype(np.float64), x.astype(np.float64), np.zeros(g.weight_shape)
        wanted = reference.conv2d_backward(*exact, padding=2)[1]
        assert wanted is not None and np.isfinite(dweight).all()
        assert np.linalg.norm(dweight - wanted) <= 2e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "tiles"),
    [
        (7, 3, 1, (8, 7, 7, 1, 1)),  # one zero between the last row and the first
        (8, 3, 1, (8, 6, 6, 2, 2)),
        (14, 5, 2, (16, 14, 14, 1, 1)),
        (15, 5, 2, (8, 4, 4, 4, 4)),  # 1,504 multiplications instead of 1,528
        (28, 5, 2, (16, 12, 12, 3, 3)),
        (5, 7, 3, (8, 5, 5, 1, 1)),
        (6, 3, 2, (8, 8, 8, 1, 1)),
        (14, 7, 0, (16, 10, 10, 1, 1)),
    ],
)
def test_tilings_have_the_fewest_multiplications(size: int, kernel: int, padding: int, tiles: tuple[int, ...]) -> None:
    g = Conv2dGeometry.of((1, size, size, PANEL), (kernel, kernel, PANEL, PANEL), padding=padding)
    assert tuple(fft_tiling.tiling_of(g)) == tiles
    assert (points_of(8), points_of(16)) == (94, 382)


@pytest.mark.parametrize(
    ("images", "size", "kernel", "algorithm"),
    [
        (32, 7, 3, "fft"),
        (31, 7, 3, "winograd"),
        (32, 14, 3, "winograd"),
        (32, 5, 3, "winograd"),
        (32, 14, 5, "fft"),
        (32, 3, 5, None),  # most taps are on the padding
        (32, 14, 7, "fft"),
        (8, 28, 7, "fft"),
        (1, 14, 7, None),
    ],
)
def test_it_is_chosen_where_it_pays_off(images: int, size: int, kernel: int, algorithm: str | None) -> None:
    g = Conv2dGeometry.of((images, size, size, PANEL), (kernel, kernel, PANEL, PANEL), padding=kernel // 2)
    assert cpu._transformed(g) == algorithm
    if algorithm is not None:
        assert cpu._choose("forward", g) == cpu._choose("backward_weight", g) == algorithm


def test_applies_to_whole_panels() -> None:
    x, plain = (2, 8, 8, 2 * PANEL), (3, 3, 2 * PANEL, PANEL)
    assert fft_tiling.applies(Conv2dGeometry.of(x, plain, padding=1))
    assert fft_tiling.applies(Conv2dGeometry.of(x, (3, 3, PANEL, 2 * PANEL), groups=2))
    for weight, options in [
        ((3, 3, 2 * PANEL, PANEL + PANEL // 2), {}),
        (plain, {"stride": 2}),
        (plain, {"dilation": 2}),
        ((3, 3, PANEL, PANEL), {"groups": 2}),
        ((17, 3, 2 * PANEL, PANEL), {"padding": 8}),
    ]:
        assert not fft_tiling.applies(Conv2dGeometry.of(x, weight, **options))


@pytest.mark.parametrize(
    ("size", "channels", "filters", "kernel"), [(7, 64, 128, 3), (14, 32, 64, 5), (14, 32, 64, 7), (28, 32, 32, 5)]
)
def test_error_at_the_network_shapes(size: int, channels: int, filters: int, kernel: int) -> None:
    """In float32 the relative error in the 2-norm stays under 6e-7, a fifth of what Winograd's may be."""
    rng, padding = np.random.default_rng(0), kernel // 2
    x = rng.standard_normal((32, size, size, channels))
    weight = rng.standard_normal((kernel, kernel, channels, filters)) / np.sqrt(kernel**2 * channels)
    dy = rng.standard_normal((32, size, size, filters))
    single = [array.astype(np.float32) for array in (x, weight, dy)]
    x, weight, dy = (array.astype(np.float64) for array in single)
    assert cpu._choose("forward", Conv2dGeometry.of(x.shape, weight.shape, padding=padding)) == "fft"
    options = {"padding": padding}
    actual = conv2d(*single[:2], **options), *conv2d_backward(single[2], *single[:2], **options)[:2]
    wanted = reference.conv2d(x, weight, **options), *reference.conv2d_backward(dy, x, weight, **options)[:2]
    for found, exact in zip(actual, wanted, strict=True):
        assert found is not None and exact is not None and np.isfinite(found).all()
        assert np.linalg.norm(found - exact) <= 6e-7 * np.linalg.norm(exact)


def test_a_nan_is_not_lost() -> None:
    x, weight = np.ones((40, 7, 7, PANEL), np.float32), np.ones((3, 3, PANEL, PANEL), np.float32)
    assert cpu._choose("forward", Conv2dGeometry.of(x.shape, weight.shape, padding=1)) == "fft"
    x[3, 4, 4, 5] = np.nan
    y = conv2d(x, weight, padding=1)
    assert np.isnan(y[3, 3:6, 3:6]).all() and np.isfinite(y[[0, 1, 2, 4]]).all()


@pytest.mark.parametrize(("size", "kernel"), [(7, 3), (20, 5)])
def test_bits_do_not_depend_on_threads(size: int, kernel: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((70, size, size, PANEL), np.float32)
    weight = rng.standard_normal((kernel, kernel, PANEL, 3 * PANEL), np.float32)
    assert cpu._choose("forward", Conv2dGeometry.of(x.shape, weight.shape, padding=kernel // 2)) == "fft"
    threads, results = numba.get_num_threads(), []
    for count in {1, threads}:
        numba.set_num_threads(count)
        try:
            y = conv2d(x, weight, padding=kernel // 2)
            results.append([y, *conv2d_backward(y, x, weight, padding=kernel // 2)])
        finally:
            numba.set_num_threads(threads)
    for first, second in zip(results[0], results[-1], strict=True):
        assert first is not None and second is not None and first.tobytes() == second.tobytes()
