"""The CUDA convolution against the reference, on every path."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.ops.conv2d import conv2d, conv2d_backward, gemm_plan, reference
from gpunet.ops.conv2d import cuda as room
from gpunet.ops.geometry import Conv2dGeometry
from tests.cuda.conftest import Device
from tests.ops.test_conv2d import arrays, cases
from tests.support import assert_close, sum_scale

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def case(x: tuple[int, ...], weight: tuple[int, ...], dtype: Any = np.float32, **options: Any) -> dict[str, Any]:
    return {"x": x, "weight": weight, "options": options, "dtype": dtype, "seed": 1}


def check_against_reference(device: Device, shapes: dict[str, Any]) -> None:
    """Output and all gradients, from an `x` that is not contiguous, dweight and dbias into given arrays."""
    x, weight, bias, dy = arrays(shapes)
    exact_x, exact_weight, exact_bias, exact_dy = (array.astype(np.float64) for array in (x, weight, bias, dy))
    wide = device.array(np.repeat(x, 2, axis=2)[:, :, ::2])
    taps, options = math.prod(weight.shape[:2]), shapes["options"]
    on_device = device.array(weight)

    y = conv2d(wide, on_device, device.array(bias), **options)
    assert y.dtype == x.dtype
    wanted = reference.conv2d(exact_x, exact_weight, exact_bias, **options)
    terms = taps * weight.shape[2] + 1
    assert_close(device.host(y), wanted, terms=terms, scale=sum_scale(wanted, terms))

    out = device.array(np.empty_like(weight)), device.array(np.empty_like(bias))
    gradients = conv2d_backward(device.array(dy), wide, on_device, **options, out=out)
    assert gradients[1] is out[0] and gradients[2] is out[1]
    expected = reference.conv2d_backward(exact_dy, exact_x, exact_weight, **options)
    lengths = taps * weight.shape[3], dy[..., 0].size, dy[..., 0].size
    for actual, wanted_gradient, length in zip(gradients, expected, lengths, strict=True):
        assert actual is not None and wanted_gradient is not None and actual.dtype == x.dtype
        assert_close(device.host(actual), wanted_gradient, terms=length, scale=sum_scale(wanted_gradient, length))


Tile = tuple[int, int]
TILES: list[Tile] = [(128, 64), (128, 32), (64, 64)]
CUTS = [(TILES[0], 1), (TILES[0], 30), (TILES[1], 30), (TILES[2], 1)]
"""Tiles and blocks, see :func:`forced`."""


@contextmanager
def forced(algorithm: str, blocks: int = 264, tile: Tile | None = None) -> Iterator[None]:
    """Take `algorithm` on all ways, this tile, and so many slices as give `blocks` blocks, however short they are."""
    chosen = gemm_plan.plan.__wrapped__

    def plan(rows: int, columns: int, k: int, *args: Any, max_slices: int, **options: Any) -> gemm_plan.Plan:
        rows_columns = tile or chosen(rows, columns, k, *args, max_slices=max_slices, **options).tile
        tiles = math.ceil(rows / rows_columns[0]), math.ceil(columns / rows_columns[1])
        slices = round(blocks / (math.prod(tiles) * options.get("layers", 1)))
        return gemm_plan.Plan(rows_columns, tiles, max(1, min(slices, k // gemm_plan.TILE_K, max_slices)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemm_plan, "plan", plan)
        patch.setattr(room, "_choose", lambda direction, g: algorithm)
        patch.setattr(room, "_BLOCKS", blocks)
        yield


@settings(max_examples=40)
@given(shapes=cases())
def test_against_reference(device: Device, shapes: dict[str, Any]) -> None:
    check_against_reference(device, shapes)


@settings(max_examples=40)
@given(shapes=cases())
def test_direct(device: Device, shapes: dict[str, Any]) -> None:
    with forced("direct"):
        check_against_reference(device, shapes)


@pytest.mark.parametrize("blocks", [1, 12])
@settings(max_examples=40)
@given(shapes=cases(max_batch=9), tile=st.sampled_from(TILES))
def test_gemm(device: Device, blocks: int, shapes: dict[str, Any], tile: Tile) -> None:
    assume(shapes["options"]["groups"] == 1)
    with forced("gemm", blocks, None if shapes["dtype"] == np.float64 else tile):
        check_against_reference(device, shapes)


GEMM_SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 5, 5, 16), (3, 3, 16, 64), {"padding": 1}),  # vectorized, whole K tiles, whole tiles along N
    ((3, 4, 5, 20), (3, 2, 20, 68), {"padding": ((1, 2), (0, 1))}),  # vectorized, K tiles across taps
    ((3, 4, 5, 7), (2, 3, 7, 70), {"padding": "same"}),  # scalar loads, a second tile along N
    ((70, 2, 2, 8), (3, 3, 8, 6), {"padding": 1}),  # images innermost: tiles of one and of two pixels
    ((3, 1, 1, 24), (3, 3, 24, 9), {"padding": 1}),  # one tap of nine
    ((2, 7, 6, 12), (3, 3, 12, 8), {"padding": 2, "stride": (2, 3), "dilation": (3, 2)}),  # phases without taps
    ((1, 3, 2, 4), (1, 1, 4, 8), {"stride": 5}),  # phases beyond the map
    ((2, 4, 9, 4), (1, 5, 4, 4), {"padding": (0, 4), "stride": (1, 2)}),
]


@pytest.mark.parametrize(
    ("dtype", "tile", "blocks"), [*((np.float32, *cut) for cut in CUTS), (np.float64, None, 1), (np.float64, None, 30)]
)
@pytest.mark.parametrize(("x", "weight", "options"), GEMM_SHAPES)
def test_gemm_shapes(
    device: Device,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    options: dict[str, Any],
    blocks: int,
    dtype: Any,
    tile: Tile | None,
) -> None:
    with forced("gemm", blocks, tile):
        check_against_reference(device, case(x, weight, dtype, **options))


def rounded_to_tf32(x: np.ndarray) -> np.ndarray:
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


@pytest.mark.parametrize(("tile", "blocks"), CUTS)
@pytest.mark.parametrize(("x", "weight", "options"), GEMM_SHAPES)
def test_tf32(
    device: Device, x: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], blocks: int, tile: Tile
) -> None:
    """Of factors that are TF32 numbers, the products are exact; others are rounded to such first."""
    shapes = case(x, weight, **options)
    on_device = [device.array(array) for array in arrays(shapes)]
    with forced("gemm", blocks, tile), device.backend.use_precision("tf32"):
        y = conv2d(*on_device[:3], **options)
        dx, dweight, dbias = conv2d_backward(on_device[3], *on_device[:2], **options)
    factors = [rounded_to_tf32(array).astype(np.float64) for array in arrays(shapes)]
    taps, positions = math.prod(weight[:2]), y[..., 0].size
    bias = arrays(shapes)[2].astype(np.float64)
    wanted_y = reference.conv2d(factors[0], factors[1], bias, **options)
    wanted = reference.conv2d_backward(factors[3], factors[0], factors[1], **options)[:2]
    lengths = taps * weight[2] + 1, taps * weight[3], positions
    for actual, expected, terms in zip((y, dx, dweight), (wanted_y, *wanted), lengths, strict=True):
        assert actual is not None and expected is not None
        assert_close(device.host(actual), expected, terms=terms, scale=sum_scale(expected, terms))
    assert_close(device.host(dbias), arrays(shapes)[3].sum((0, 1, 2), np.float64), terms=positions)


def test_tf32_leaves_float64_alone(device: Device) -> None:
    with forced("gemm"), device.backend.use_precision("tf32"):
        check_against_reference(device, case((2, 3, 3, 8), (3, 3, 8, 8), np.float64, padding=1))


@contextmanager
def few_blocks(blocks: int) -> Iterator[None]:
    """Cut the pixels of few channels for so many blocks: with one, a block has all tiles of a result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_FEW_BLOCKS", blocks)
        yield


def algorithms(x: tuple[int, ...], weight: tuple[int, ...], **options: Any) -> tuple[str, ...]:
    return tuple(room._choose(way, Conv2dGeometry.of(x, weight, **options)) for way in ("forward", "backward_weight"))


FEW_SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((9, 7, 6, 1), (3, 3, 1, 32), {"padding": 1}),
    ((2, 9, 40, 1), (4, 4, 1, 33), {"stride": (2, 1)}),  # a second block of columns
    ((3, 12, 11, 3), (1, 4, 3, 70), {"padding": ((2, 1), (0, 3)), "stride": (1, 3), "dilation": (2, 3)}),
    ((150, 3, 2, 2), (3, 2, 2, 5), {}),  # one pixel of an image: a tile is 64 images
    ((2, 70, 3, 1), (1, 3, 1, 17), {}),  # one column
    ((2, 3, 70, 1), (3, 1, 1, 16), {}),  # one row
    ((1, 1, 1, 4), (2, 2, 4, 3), {"padding": 1}),
    ((5, 5, 5, 1), (2, 2, 1, 6), {"padding": 9, "dilation": 8}),  # patches of padding alone
]


@DTYPES
@pytest.mark.parametrize("blocks", [1, 5, 528])
@pytest.mark.parametrize(("x", "weight", "options"), FEW_SHAPES)
def test_few_input_channels(
    device: Device, x: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], blocks: int, dtype: Any
) -> None:
    assert algorithms(x, weight, **options) == ("few_channels", "few_channels")
    with few_blocks(blocks):
        check_against_reference(device, case(x, weight, dtype, **options))


@pytest.mark.parametrize("rows", range(1, 17))
def test_few_rows_of_weights(device: Device, rows: int) -> None:
    """As channels, and as taps; with more than 16 rows, the weight gradient has a second block of them."""
    with few_blocks(1):
        check_against_reference(device, case((3, 7, 5, rows), (1, 1, rows, 19)))
        check_against_reference(device, case((2, 3, 31, 1), (1, rows, 1, 34), padding=((1, 0), (0, 2))))
        assert algorithms((2, 9, 8, 1), (16 + rows, 1, 1, 3), padding=16) == ("gemm", "few_channels")
        check_against_reference(device, case((2, 9, 8, 1), (16 + rows, 1, 1, 3), padding=16))


@DTYPES
def test_the_bits_of_y_do_not_depend_on_the_slices(device: Device, dtype: Any) -> None:
    x, weight, bias, _ = (device.array(array) for array in arrays(case((7, 9, 8, 1), (3, 3, 1, 40), dtype)))
    results = set()
    for blocks in (1, 4, 528):
        with few_blocks(blocks):
            results.add(device.host(conv2d(x, weight, bias)).tobytes())
    assert len(results) == 1


@DTYPES
@pytest.mark.parametrize(("slices", "columns", "period"), [(1, 5, 1), (2, 12, 4), (9, 1030, 5), (16, 2048, 64)])
def test_few_slices_are_added_as_many(device: Device, slices: int, columns: int, period: int, dtype: Any) -> None:
    rng = np.random.default_rng(slices)
    partial, start = rng.standard_normal((slices, columns)).astype(dtype), rng.standard_normal(period).astype(dtype)
    on_device, added = device.array(partial), device.array(start)
    for extra in (None, added):
        few = device.host(room._add_slices(on_device, device.array(np.full(columns, np.nan, dtype)), extra))
        if extra is None:
            out = device.array(np.full(columns, np.nan, dtype))
            np.testing.assert_array_equal(few, device.host(room._column_sums(on_device, slices, 1, out)))
        wanted = partial.sum(0, np.float64) + (0 if extra is None else np.resize(start, columns))
        assert_close(few, wanted, terms=8, scale=np.abs(partial).sum(0).max())


@DTYPES
@pytest.mark.parametrize("groups", [2, 8])
def test_groups(device: Device, groups: int, dtype: Any) -> None:
    check_against_reference(device, case((2, 5, 4, 8), (3, 3, 8 // groups, 16), dtype, groups=groups, padding=1))


@pytest.mark.parametrize(
    ("x", "weight", "options", "kernels"),
    [
        (
            (2, 5, 5, 32),
            (3, 3, 32, 64),
            {},
            ["gemm_forward", "add_rows", "gemm_backward_x", "add_rows", "gemm_backward_weight", "column_sums"],
        ),
        (
            (2, 6, 6, 1),
            (3, 3, 1, 8),
            {},
            ["few_channels_forward", "gemm_backward_x", "add_rows", "few_channels_backward_weight", "column_sums"],
        ),
        (
            (2, 6, 6, 8),
            (3, 3, 4, 8),
            {"groups": 2},
            ["direct_forward_vec4", "direct_backward_x", "direct_backward_weight", "column_sums"],
        ),
        (
            (2, 6, 6, 6),
            (3, 3, 2, 9),
            {"groups": 3},
            ["direct_forward", "direct_backward_x", "direct_backward_weight", "column_sums"],
        ),
        (
            (1, 6, 6, 40),
            (1, 1, 40, 8),
            {"stride": (9, 9)},
            ["gemm_forward", "direct_backward_x", "gemm_backward_weight", "column_sums"],
        ),
    ],
)
def test_the_choice(
    device: Device,
    launched: list[str],
    x: tuple[int, ...],
    weight: tuple[int, ...],
    options: dict[str, Any],
    kernels: list[str],
) -> None:
    check_against_reference(device, case(x, weight, **options))
    assert launched == kernels


def test_long_sums(device: Device) -> None:
    """Column sums in several slices; values whose float32 sum, one after the other, loses its digits."""
    dy = (1 + np.random.default_rng(0).random((700, 3, 35))).astype(np.float32)
    expected = dy.astype(np.float64).sum((0, 1))
    total = room.conv2d_backward_bias(device.array(dy.reshape(700, 3, 1, 35)))
    assert_close(device.host(total), expected, terms=8, c=1)  # eight rows at a time are added in float32


def test_arrays_at_any_address(device: Device) -> None:
    """A weight within a buffer of parameters need not start where a vector may; the bits do not depend on it."""
    x, weight, bias, dy = arrays(case((3, 4, 4, 16), (3, 3, 16, 20), padding=1))
    results = []
    for shift in (0, 1):
        buffer = device.array(np.concatenate([np.zeros(shift, np.float32), weight.ravel()]))
        gradient = device.array(np.zeros(buffer.size, np.float32))
        on_device = device.array(x), buffer[shift:].reshape(weight.shape), device.array(bias), device.array(dy)
        for algorithm in ("gemm", "direct"):
            with forced(algorithm):
                y = conv2d(*on_device[:3], padding=1)
                out = gradient[shift:].reshape(weight.shape), None
                gradients = conv2d_backward(on_device[3], *on_device[:2], padding=1, out=out)
            results.append([device.host(array).tobytes() for array in (y, *gradients)])
    assert results[0] == results[2] and results[1] == results[3]


def test_the_same_bits_every_time(device: Device) -> None:
    shapes = case((9, 6, 6, 8), (3, 3, 8, 40), padding=1)
    x, weight, bias, dy = (device.array(array) for array in arrays(shapes))
    runs = []
    for _ in range(2):
        results = conv2d(x, weight, bias, padding=1), *conv2d_backward(dy, x, weight, padding=1)
        runs.append([device.host(array).tobytes() for array in results])
    assert runs[0] == runs[1]


def test_no_bias(device: Device) -> None:
    shapes = case((2, 4, 4, 3), (2, 2, 3, 5))
    x, weight, _, _ = arrays(shapes)
    wanted = reference.conv2d(x.astype(np.float64), weight.astype(np.float64))
    for algorithm in ("gemm", "few_channels", "direct"):
        with forced(algorithm):
            y = conv2d(device.array(x), device.array(weight))
        assert_close(device.host(y), wanted, terms=12, scale=sum_scale(wanted, 12))


@pytest.mark.parametrize("algorithm", ["gemm", "few_channels", "direct"])
def test_values_that_are_not_finite(device: Device, algorithm: str) -> None:
    """They reach the outputs that see them, and no other."""
    x = np.zeros((1, 4, 4, 4), np.float32)
    x[0, 0, 0, 0], x[0, 3, 3, 1] = np.nan, np.inf
    with forced(algorithm):
        y = device.host(conv2d(device.array(x), device.array(np.ones((2, 2, 4, 4), np.float32))))
    assert np.isnan(y[0, 0, 0]).all() and np.isposinf(y[0, 2, 2]).all()
    rest = np.ones((3, 3), bool)
    rest[0, 0] = rest[2, 2] = False
    np.testing.assert_array_equal(y[0][rest], 0)
