"""Convolution: geometry, the reference against hand-computed values and PyTorch, the CPU against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops._simd import PANEL_BYTES
from gpunet.ops.conv2d import conv2d, conv2d_backward, cpu, reference
from gpunet.ops.conv2d.cpu.merged_groups import merged_weights, of_merged_groups
from gpunet.ops.conv2d.cpu.phases import of_phases
from gpunet.ops.conv2d.taps import transposed, without_dead_taps
from gpunet.ops.geometry import Conv2dGeometry
from tests.support import assert_close, check_gradient, sum_scale, torch_or_skip


@st.composite
def cases(draw: st.DrawFn, max_batch: int = 3, symmetric: bool = False) -> dict[str, Any]:
    """Shapes, options and a seed of a convolution whose kernel fits its map."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    options: dict[str, Any] = {
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "groups": groups,
    }
    sides = st.tuples(st.integers(0, 3), st.integers(0, 3))
    if symmetric:
        options["padding"] = draw(sides)
    else:
        options["padding"] = draw(
            st.one_of(st.integers(0, 2), sides, st.tuples(sides, sides), st.sampled_from(["same", "valid"]))
        )
    x_shape = (
        draw(st.integers(1, max_batch)),
        draw(st.integers(1, 7)),
        draw(st.integers(1, 7)),
        groups * draw(st.integers(1, 3)),
    )
    weight_shape = (*kernel, x_shape[3] // groups, groups * draw(st.integers(1, 3)))
    try:
        Conv2dGeometry.of(x_shape, weight_shape, **options)
    except ShapeError:
        assume(False)
    return {
        "x": x_shape,
        "weight": weight_shape,
        "options": options,
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "seed": draw(st.integers(0, 10_000)),
    }


def arrays(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case["seed"])
    g = Conv2dGeometry.of(case["x"], case["weight"], **case["options"])
    shapes = case["x"], case["weight"], (g.out_channels,), g.y_shape
    x, weight, bias, dy = (rng.standard_normal(shape).astype(case["dtype"]) for shape in shapes)
    return x, weight, bias, dy


SUMS = ["tap_gemm", "register_tiling", "direct"]
"""The algorithms that add up what the definition says, for every geometry; with groups, ``direct`` or others' part."""


def choose_always(algorithm: str, patch: pytest.MonkeyPatch) -> None:
    """Let the CPU use `algorithm` wherever it can."""
    as_convolution = algorithm in ("register_tiling", "winograd", "fft")  # these have no input gradient of their own

    def choose(direction: str, g: Conv2dGeometry) -> str:
        if g.groups > 1 and algorithm != "direct":
            return "strided" if direction == "backward_x" else "register_tiling"
        if direction == "backward_x" and algorithm == "register_tiling":
            return "strided"
        if direction == "backward_x" and as_convolution:
            return "convolution" if transposed(g) is not None else "col2im"
        return algorithm

    patch.setattr(cpu, "_choose", choose)


def check_against_reference(case: dict[str, Any], amplification: float = 1.0) -> None:
    """`amplification`: by how much the algorithm enlarges the rounding errors of a plain sum."""
    x, weight, bias, dy = arrays(case)
    wide = np.repeat(x, 2, axis=2)[:, :, ::2]  # the same values, not contiguous
    assert not wide.flags.c_contiguous or wide.shape[2] == 1 or wide.size == 1
    kept = x.copy(), weight.copy(), dy.copy()
    exact = [array.astype(np.float64) for array in (x, weight, bias, dy)]
    y = conv2d(wide, weight, bias, **case["options"])
    gradients = conv2d_backward(dy, wide, weight, **case["options"])
    terms = weight.shape[0] * weight.shape[1] * weight.shape[2] + 1
    assert y.dtype == case["dtype"]
    wanted_y = reference.conv2d(exact[0], exact[1], exact[2], **case["options"])
    assert_close(y, wanted_y, terms=terms, scale=amplification * sum_scale(wanted_y, terms))
    expected = reference.conv2d_backward(exact[3], exact[0], exact[1], **case["options"])
    lengths = weight.shape[0] * weight.shape[1] * weight.shape[3], dy[..., 0].size, dy[..., 0].size
    for actual, wanted, length in zip(gradients, expected, lengths, strict=True):
        assert actual is not None and wanted is not None and actual.dtype == case["dtype"]
        assert_close(actual, wanted, terms=length, scale=amplification * sum_scale(wanted, length))
    for array, before in zip((x, weight, dy), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@settings(max_examples=250)
@given(case=cases())
def test_cpu_matches_reference(case: dict[str, Any]) -> None:
    check_against_reference(case)


@pytest.mark.parametrize("algorithm", SUMS)
@settings(max_examples=80)
@given(case=cases(max_batch=70))
def test_every_algorithm_matches_reference(algorithm: str, case: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        choose_always(algorithm, patch)
        check_against_reference(case)


@settings(max_examples=80)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)),
    channels=st.tuples(st.integers(1, 4), st.sampled_from([1, 7, 8, 15, 16, 24, 32, 37])),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_register_tiling_of_whole_and_partial_panels(
    sizes: Any, channels: Any, kernel: Any, stride: Any, dilation: Any, padding: Any, dtype: Any
) -> None:
    """Several tasks for an image, and output channels that fill panels or do not."""
    x, weight = (*sizes, channels[0]), (*kernel, *channels)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 1}
    try:
        Conv2dGeometry.of(x, weight, **options)
    except ShapeError:
        assume(False)
    with pytest.MonkeyPatch.context() as patch:
        choose_always("register_tiling", patch)
        check_against_reference({"x": x, "weight": weight, "options": options, "dtype": dtype, "seed": 2})


@settings(max_examples=150)
@given(case=cases())
def test_phases_of_dilated_convolutions(case: dict[str, Any]) -> None:
    """Maps and padding that dilation divides or does not, computed plainly once they are divided into phases."""

    def choose(direction: str, g: Conv2dGeometry) -> str:
        if direction == "backward_x":
            return "convolution" if transposed(g) is not None else "strided"
        return "phases" if of_phases(g) is not None else "register_tiling"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_choose", choose)
        check_against_reference(case)


def test_geometry_of_phases() -> None:
    g = Conv2dGeometry.of((5, 14, 13, 8), (3, 5, 8, 16), padding=((2, 1), (6, 7)), dilation=(2, 3))
    parts = of_phases(g)
    assert parts is not None
    assert parts.x_shape == (30, 7, 5, 8) and parts.padding == (1, 1, 2, 2) and parts.dilation == (1, 1)
    assert (g.out_height, g.out_width) == (13, 14) and parts.y_shape == (30, 7, 5, 16)
    assert of_phases(parts) is None  # not dilated
    for options in ({"padding": 1, "dilation": 2}, {"padding": 2, "dilation": 2, "stride": 2}):
        assert of_phases(Conv2dGeometry.of((5, 14, 14, 8), (3, 3, 8, 16), **options)) is None


HALF_PANEL = PANEL_BYTES // 4 // 2  # in float32


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("inner", [HALF_PANEL, 2 * HALF_PANEL])
@pytest.mark.parametrize("size", [(40, 4, 9), (4, 17, 14)])
def test_groups_that_are_merged(groups: int, inner: int, size: tuple[int, int, int]) -> None:
    """Groups of half a panel of output channels, with tiles of several sizes."""
    weight = (3, 3, inner, groups * HALF_PANEL)
    case = {"x": (*size, groups * inner), "weight": weight, "options": {"padding": 1, "groups": groups}, "seed": 3}
    g = Conv2dGeometry.of(case["x"], weight, **case["options"])
    assert cpu._choose("forward", g) == "merged_groups"
    for dtype in (np.float32, np.float64):
        check_against_reference({**case, "dtype": dtype}, 16.0)


def test_weights_of_merged_groups() -> None:
    weight = np.arange(2 * 3 * 2 * 12, dtype=np.float32).reshape(2, 3, 2, 12) + 1
    g = Conv2dGeometry.of((1, 5, 5, 8), weight.shape, groups=4)  # of 2 inputs and 3 outputs
    merged = merged_weights(weight, g)
    assert merged.shape == (2, 3, 4, 12)
    for c in range(12):  # c // 3 is its group, the first or second of its pair
        first = 2 * (c // 3 % 2)
        np.testing.assert_array_equal(merged[:, :, first : first + 2, c], weight[..., c])
        assert not np.delete(merged[..., c], [first, first + 1], axis=2).any()


def test_groups_that_are_not_merged() -> None:
    half = HALF_PANEL
    for x, weight, options in [
        ((20, 14, 14, 3 * half), (3, 3, half, 3 * half), {"groups": 3}),  # no pairs
        ((20, 14, 14, 4 * half), (5, 5, half, 4 * half), {"groups": 4}),  # too many products
        ((20, 14, 14, 4 * half), (3, 3, half, 4 * half), {"groups": 4, "stride": 2}),
        ((1, 14, 14, 4 * half), (3, 3, half, 4 * half), {"groups": 4}),  # few tiles
        ((20, 14, 14, 2 * half), (3, 3, half // 2, 2 * half), {"groups": 4}),  # pairs of less than a panel
    ]:
        assert of_merged_groups(Conv2dGeometry.of(x, weight, padding=1, **options)) is None


@pytest.mark.parametrize(
    ("x", "weight", "groups", "algorithms"),
    [
        ((128, 28, 28, 1), (3, 3, 1, 32), 1, ("register_tiling", "col2im", "register_tiling")),
        ((1, 14, 14, 32), (3, 3, 32, 64), 1, ("register_tiling", "convolution", "register_tiling")),
        ((128, 14, 14, 32), (3, 3, 32, 64), 1, ("winograd", "convolution", "winograd")),
        ((128, 3, 3, 128), (3, 3, 128, 256), 1, ("winograd", "convolution", "winograd")),
        ((128, 7, 7, 64), (3, 3, 64, 128), 1, ("fft", "convolution", "fft")),
        ((1, 3, 3, 128), (3, 3, 128, 256), 1, ("register_tiling", "convolution", "tap_gemm")),
        ((64, 3, 3, 124), (3, 3, 124, 256), 1, ("tap_gemm", "convolution", "tap_gemm")),
        ((8, 14, 14, 48), (3, 3, 12, 48), 4, ("register_tiling", "convolution", "register_tiling")),
        ((8, 14, 14, 32), (3, 3, 1, 32), 32, ("direct", "direct", "direct")),
    ],
)
def test_choice(x: tuple[int, ...], weight: tuple[int, ...], groups: int, algorithms: tuple[str, ...]) -> None:
    g = Conv2dGeometry.of(x, weight, padding=1, groups=groups)
    directions = "forward", "backward_x", "backward_weight"
    assert tuple(cpu._choose(direction, g) for direction in directions) == algorithms


def test_choice_of_dilated_convolutions() -> None:
    many, few = (Conv2dGeometry.of((n, 14, 14, 64), (3, 3, 64, 64), padding=2, dilation=2) for n in (128, 1))
    assert [cpu._choose(d, many) for d in ("forward", "backward_x", "backward_weight")] == [
        "phases",
        "convolution",
        "phases",
    ]
    assert cpu._choose("forward", few) == "register_tiling"


def test_choice_of_products_and_strides() -> None:
    directions = "forward", "backward_x", "backward_weight"
    dense = Conv2dGeometry.of((8, 14, 14, 32), (1, 1, 32, 64))
    assert [cpu._choose(direction, dense) for direction in directions] == ["matmul"] * 3
    strided = Conv2dGeometry.of((8, 14, 14, 32), (3, 3, 32, 64), stride=2, padding=1)
    choices = [cpu._choose(direction, strided) for direction in directions]
    assert choices == ["register_tiling", "strided", "register_tiling"]
    small = Conv2dGeometry.of((8, 7, 7, 32), (3, 3, 32, 64), stride=2, padding=1)
    assert cpu._choose("backward_x", small) == "tap_gemm"


def test_dead_taps() -> None:
    """Of a "same" 3x3 kernel on a 1x1 map the centre is left; a strided 1x1 map keeps the tap that meets it."""
    g = Conv2dGeometry.of((2, 1, 1, 3), (3, 3, 3, 4), padding="same")
    live, kept = without_dead_taps(g)
    assert kept == (slice(1, 2), slice(1, 2)) and live.kernel == (1, 1) and live.padding == (0, 0, 0, 0)
    whole = Conv2dGeometry.of((2, 3, 3, 3), (3, 3, 3, 4), padding="same")
    assert without_dead_taps(whole) == (whole, (slice(0, 3), slice(0, 3)))
    spread = Conv2dGeometry.of((1, 2, 1, 1), (3, 3, 1, 1), padding=2, dilation=2)
    live, kept = without_dead_taps(spread)  # rows at -2, 0, 2 and -1, 1, 3; columns at -2, 0, 2 of a map of one
    assert kept == (slice(1, 2), slice(1, 2)) and (live.out_height, live.out_width) == (2, 1)


def test_transposed_convolution_only_where_there_is_one() -> None:
    g = Conv2dGeometry.of((2, 6, 7, 3), (3, 2, 3, 4), padding=((2, 0), (1, 0)))
    back = transposed(g)
    assert back is not None and back.x_shape == g.y_shape and back.y_shape == g.x_shape
    assert back == Conv2dGeometry.of(g.y_shape, (3, 2, 4, 3), padding=((0, 2), (0, 1)))
    assert transposed(Conv2dGeometry.of((2, 6, 7, 3), (3, 2, 3, 4), stride=2)) is None
    assert transposed(Conv2dGeometry.of((2, 6, 7, 3), (3, 2, 3, 4), padding=3)) is None


@pytest.mark.parametrize(
    ("x", "weight", "padding", "amplification"),
    [
        ((33, 28, 28, 1), (3, 3, 1, 32), 1, 1),
        ((20, 14, 14, 32), (3, 3, 32, 64), 1, 8),  # Winograd's 7x7 tiles; their bound would be 5,000
        ((17, 7, 7, 64), (3, 3, 64, 128), 1, 1),
        ((130, 3, 3, 128), (3, 3, 128, 40), 1, 1),
        ((65, 1, 1, 256), (3, 3, 256, 130), 1, 1),
        ((9, 4, 1, 20), (3, 3, 20, 24), 1, 1),
        ((2, 40, 40, 3), (5, 5, 3, 7), "same", 1),
    ],
)
def test_network_shapes(x: tuple[int, ...], weight: tuple[int, ...], padding: Any, amplification: float) -> None:
    options = {"stride": 1, "padding": padding, "dilation": 1, "groups": 1}
    case = {"x": x, "weight": weight, "options": options, "dtype": np.float32, "seed": 1}
    check_against_reference(case, amplification)


@settings(max_examples=250)
@given(case=cases(symmetric=True))
def test_reference_matches_pytorch(case: dict[str, Any]) -> None:
    torch = torch_or_skip()
    x, weight, bias, dy = (array.astype(np.float64) for array in arrays(case))
    nchw, oihw = (0, 3, 1, 2), (3, 2, 0, 1)
    tx, tw, tb = (
        torch.tensor(np.ascontiguousarray(array), requires_grad=True)
        for array in (x.transpose(nchw), weight.transpose(oihw), bias)
    )
    ty = torch.nn.functional.conv2d(tx, tw, tb, **case["options"])
    ty.backward(torch.tensor(np.ascontiguousarray(dy.transpose(nchw))))
    terms = max(weight.size, dy[..., 0].size)
    scale = float(terms) ** 0.5
    assert_close(
        reference.conv2d(x, weight, bias, **case["options"]),
        ty.detach().numpy().transpose(0, 2, 3, 1),
        terms=terms,
        scale=scale,
    )
    dx, dweight, dbias = reference.conv2d_backward(dy, x, weight, **case["options"])
    assert dx is not None and dweight is not None and dbias is not None
    assert_close(dx, tx.grad.numpy().transpose(0, 2, 3, 1), terms=terms, scale=scale)
    assert_close(dweight, tw.grad.numpy().transpose(2, 3, 1, 0), terms=terms, scale=scale)
    assert_close(dbias, tb.grad.numpy(), terms=terms, scale=scale)


def test_reference_by_hand() -> None:
    x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)  # 1 2 3 / 4 5 6 / 7 8 9
    weight = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
    y = reference.conv2d(x, weight, np.array([0.5]))
    # 1*1 + 2*2 + 4*3 + 5*4 = 37, and so on
    np.testing.assert_array_equal(y[0, :, :, 0], [[37.5, 47.5], [67.5, 77.5]])
    padded = reference.conv2d(x, weight, padding=((1, 0), (0, 1)))
    # the first row sees only the second kernel row, the last column only the first kernel column
    np.testing.assert_array_equal(padded[0, :, :, 0], [[11, 18, 9], [37, 47, 21], [67, 77, 33]])
    dx, dweight, dbias = reference.conv2d_backward(np.ones((1, 2, 2, 1)), x, weight)
    assert dx is not None and dweight is not None and dbias is not None
    np.testing.assert_array_equal(dx[0, :, :, 0], [[1, 3, 2], [4, 10, 6], [3, 7, 4]])
    np.testing.assert_array_equal(dweight[:, :, 0, 0], [[12, 16], [24, 28]])
    np.testing.assert_array_equal(dbias, [4])


@settings(max_examples=30)
@given(case=cases())
def test_reference_gradients(case: dict[str, Any]) -> None:
    x, weight, bias, dy = (array.astype(np.float64) for array in arrays(case))
    options, rng = case["options"], np.random.default_rng(0)
    dx, dweight, dbias = reference.conv2d_backward(dy, x, weight, **options)
    assert dx is not None and dweight is not None and dbias is not None
    check_gradient(lambda v: reference.conv2d(v, weight, bias, **options), dx, x, dy, rng)
    check_gradient(lambda v: reference.conv2d(x, v, bias, **options), dweight, weight, dy, rng)
    check_gradient(lambda v: reference.conv2d(x, weight, v, **options), dbias, bias, dy, rng)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize(("groups", "inner", "outer"), [(3, 5, 17), (2, 16, 32), (2, 40, 32), (4, 3, 64)])
@pytest.mark.parametrize("stride", [1, 2])
def test_groups_of_many_channels(kernel: int, groups: int, inner: int, outer: int, stride: int) -> None:
    """Incomplete panels of each group, whole ones, and of channels that Winograd takes."""
    weight, options = (kernel, kernel, inner, groups * outer), {"padding": 1, "groups": groups, "stride": stride}
    case = {"x": (6, 7, 5, groups * inner), "weight": weight, "options": options, "seed": 2}
    for dtype in (np.float32, np.float64):
        check_against_reference({**case, "dtype": dtype}, 16.0 if kernel == 3 else 1.0)  # Winograd's, see its test


@pytest.mark.parametrize("algorithm", SUMS)
@pytest.mark.parametrize("shape", [(48, 14, 14, 8), (40, 3, 3, 40), (3, 28, 28, 1)])
def test_bits_do_not_depend_on_threads(shape: tuple[int, ...], algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    choose_always(algorithm, monkeypatch)
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape, dtype=np.float32)
    weight = rng.standard_normal((3, 3, shape[3], 24), dtype=np.float32)
    results = []
    threads = numba.get_num_threads()
    for count in {1, threads}:
        numba.set_num_threads(count)
        try:
            y = conv2d(x, weight, padding=1)
            results.append((y, *conv2d_backward(np.ascontiguousarray(y), x, weight, padding=1)))
        finally:
            numba.set_num_threads(threads)
    for first, second in zip(results[0], results[-1], strict=True):
        assert first is not None and second is not None
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("algorithm", SUMS)
def test_no_bias_is_a_bias_of_zero(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_always(algorithm, monkeypatch)
    rng = np.random.default_rng(4)
    x, weight = rng.standard_normal((2, 5, 6, 3)), rng.standard_normal((3, 3, 3, 5))
    np.testing.assert_array_equal(conv2d(x, weight, padding=1), conv2d(x, weight, np.zeros(5), padding=1))


def test_needs_selects_gradients() -> None:
    x, weight = np.ones((1, 3, 3, 1)), np.ones((3, 3, 1, 2))
    dx, dweight, dbias = conv2d_backward(np.ones((1, 1, 1, 2)), x, weight, needs=("weight",))
    assert dx is None and dbias is None and dweight is not None


def test_bad_input() -> None:
    x, weight = np.ones((2, 5, 5, 4)), np.ones((3, 3, 4, 6))
    with pytest.raises(ShapeError, match="4 dimensions"):
        conv2d(x[0], weight)
    with pytest.raises(ShapeError, match="expects 4 input channels"):
        conv2d(x[..., :3], weight)
    with pytest.raises(ShapeError, match=r"kernel of 7x7 .* larger than the padded map of 5x5"):
        conv2d(x, np.ones((7, 7, 4, 6)))
    with pytest.raises(ShapeError, match="larger than the padded map"):
        conv2d(x, weight, dilation=3)
    with pytest.raises(ShapeError, match="groups=3 must divide"):
        conv2d(x, weight, groups=3)
    with pytest.raises(ShapeError, match="bias must have shape"):
        conv2d(x, weight, np.ones(5))
    with pytest.raises(ShapeError, match="dy must have shape"):
        conv2d_backward(np.ones((2, 5, 5, 6)), x, weight)
    with pytest.raises(ShapeError, match="empty"):
        conv2d(x[:, :0], weight)
    with pytest.raises(DTypeError, match="dtypes must match"):
        conv2d(x, weight.astype(np.float32))
    with pytest.raises(DTypeError, match="float32 or float64"):
        conv2d(x.astype(np.int32), weight.astype(np.int32))
    with pytest.raises(ConfigError, match="stride must be at least 1"):
        conv2d(x, weight, stride=0)
    with pytest.raises(ConfigError, match="padding"):
        conv2d(x, weight, padding="full")
    with pytest.raises(ConfigError, match="padding must be at least 0"):
        conv2d(x, weight, padding=-1)
    with pytest.raises(ConfigError, match="needs"):
        conv2d_backward(np.ones((2, 3, 3, 6)), x, weight, needs=("w",))
    with pytest.raises(DTypeError, match="numpy or cupy"):
        conv2d(x, weight, bias=[0.0] * 6)
