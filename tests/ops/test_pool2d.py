"""Pooling: the reference against hand-computed values, differences and PyTorch; the CPU against the reference."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import pool2d
from gpunet.ops.geometry import Pool2dGeometry
from gpunet.ops.pool2d import reference
from tests.support import assert_close, check_gradient, one_row, torch_or_skip

Case = dict[str, Any]


def small(low: int, high: int) -> st.SearchStrategy[Any]:
    return st.one_of(st.integers(low, high), st.tuples(st.integers(low, high), st.integers(low, high)))


@st.composite
def cases(draw: st.DrawFn, kind: str, for_pytorch: bool = False) -> Case:
    """A shape and options whose windows fit the map; PyTorch has no ceil_mode with uneven padding."""
    kernel = draw(st.one_of(small(1, 4), st.sampled_from([2, 2, 3])))
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    options: dict[str, Any] = {"stride": draw(st.one_of(st.none(), small(1, 4)))}
    if kind == "max":
        options["dilation"] = draw(st.one_of(st.just(1), small(1, 3)))
    else:
        options["count_include_pad"] = draw(st.booleans())
    half = st.tuples(st.integers(0, kh // 2), st.integers(0, kw // 2))
    uneven = st.tuples(half, half).map(lambda sides: tuple(zip(*sides, strict=True)))
    options["padding"] = draw(
        st.one_of(st.just(0), st.integers(0, min(kh, kw) // 2), half, uneven, st.sampled_from(["same", "valid"]))
    )
    even = not isinstance(options["padding"], str) and np.ndim(options["padding"]) < 2
    options["ceil_mode"] = draw(st.booleans()) if even or not for_pytorch else False
    shape = tuple(draw(st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.integers(1, 9))))
    try:
        geometry(shape, kernel, options)
    except ShapeError:
        assume(False)
    return {
        "shape": shape,
        "kernel": kernel,
        "options": options,
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "seed": draw(st.integers(0, 10_000)),
        "special": draw(st.booleans()),
    }


def geometry(shape: Any, kernel: Any, options: dict[str, Any]) -> Pool2dGeometry:
    return Pool2dGeometry.of(shape, kernel, **{k: v for k, v in options.items() if k != "count_include_pad"})


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """x with many ties, both as slices of larger arrays; in a special case some NaN and infinities."""
    rng = np.random.default_rng(case["seed"])
    n, h, w, c = case["shape"]
    x = np.round(rng.standard_normal((n, h, 2 * w, c + 1)) * 2).astype(case["dtype"])[:, :, ::2, 1:]
    if case["special"]:
        x[rng.random(x.shape) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
    y_shape = geometry(case["shape"], case["kernel"], case["options"]).y_shape
    dy = rng.standard_normal((*y_shape[:3], 2 * y_shape[3])).astype(case["dtype"])[..., ::2]
    return x, dy


def taps(case: Case) -> int:
    kh, kw = geometry(case["shape"], case["kernel"], case["options"]).kernel
    return kh * kw


@settings(max_examples=250)
@given(case=cases("max"))
def test_max_cpu_matches_reference(case: Case) -> None:
    x, dy = arrays(case)
    kept = x.copy(), dy.copy()
    y, argmax = pool2d.max_pool2d(x, case["kernel"], **case["options"])
    expected, expected_argmax = reference.max_pool2d(x, case["kernel"], **case["options"])
    assert y.dtype == x.dtype and argmax.dtype == np.uint8
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, expected_argmax)
    wide = np.repeat(argmax, 2, 3)[..., ::2]
    dx = pool2d.max_pool2d_backward(dy, wide, x.shape, case["kernel"], **case["options"])
    wanted = reference.max_pool2d_backward(dy.astype(np.float64), argmax, x.shape, case["kernel"], **case["options"])
    assert dx.dtype == x.dtype
    assert_close(dx, wanted, terms=taps(case), scale=float(np.abs(dy).max()))
    for array, before in zip((x, dy), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@settings(max_examples=250)
@given(case=cases("avg"))
def test_avg_cpu_matches_reference(case: Case) -> None:
    x, dy = arrays({**case, "special": False})
    kept = x.copy(), dy.copy()
    y = pool2d.avg_pool2d(x, case["kernel"], **case["options"])
    dx = pool2d.avg_pool2d_backward(dy, x.shape, case["kernel"], **case["options"])
    assert y.dtype == dx.dtype == x.dtype
    expected = reference.avg_pool2d(x.astype(np.float64), case["kernel"], **case["options"])
    assert_close(y, expected, terms=taps(case), scale=float(np.abs(x).max()) or 1.0)
    expected = reference.avg_pool2d_backward(dy.astype(np.float64), x.shape, case["kernel"], **case["options"])
    assert_close(dx, expected, terms=taps(case), scale=float(np.abs(dy).max()))
    for array, before in zip((x, dy), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def nchw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def nhwc(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().numpy().transpose(0, 2, 3, 1)
    return array


def padded(torch: Any, tensor: Any, g: Pool2dGeometry, value: float) -> tuple[Any, tuple[int, int]]:
    """The tensor and the padding with which PyTorch pools it; what it cannot pad itself is added beforehand."""
    top, bottom, left, right = g.padding
    if (top, left) == (bottom, right) and 2 * top <= g.kernel[0] and 2 * left <= g.kernel[1]:
        return tensor, (top, left)
    return torch.nn.functional.pad(tensor, (left, right, top, bottom), value=value), (0, 0)


@settings(max_examples=250)
@given(case=cases("max", for_pytorch=True))
def test_max_reference_matches_pytorch(case: Case) -> None:
    torch = torch_or_skip()
    g = geometry(case["shape"], case["kernel"], case["options"])
    assume(all(window for _, _, window in reference._windows(g)))  # PyTorch reads outside the map there
    x, dy = arrays(case)
    x[np.isneginf(x)] = -9.0  # would tie with the padding that we add ourselves
    y, argmax = reference.max_pool2d(x, case["kernel"], **case["options"])
    tx = torch.tensor(nchw(x), requires_grad=True)
    tensor, padding = padded(torch, tx, g, -np.inf)
    ty, index = torch.nn.functional.max_pool2d(
        tensor, g.kernel, g.stride, padding, g.dilation, g.ceil_mode, return_indices=True
    )
    ty.backward(torch.tensor(nchw(dy)))
    np.testing.assert_array_equal(y, nhwc(ty))
    rows = np.arange(g.out_height)[:, None, None] * g.stride[0] + argmax // g.kernel[1] * g.dilation[0] - padding[0]
    columns = np.arange(g.out_width)[:, None] * g.stride[1] + argmax % g.kernel[1] * g.dilation[1] - padding[1]
    np.testing.assert_array_equal(rows * tensor.shape[3] + columns, nhwc(index))
    dx = reference.max_pool2d_backward(dy, argmax, x.shape, case["kernel"], **case["options"])
    assert_close(dx, nhwc(tx.grad), terms=taps(case), scale=float(np.abs(dy).max()))


@settings(max_examples=250)
@given(case=cases("avg", for_pytorch=True))
def test_avg_reference_matches_pytorch(case: Case) -> None:
    torch = torch_or_skip()
    g, include = geometry(case["shape"], case["kernel"], case["options"]), case["options"]["count_include_pad"]
    x, dy = arrays({**case, "special": False, "dtype": np.float64})
    tx = torch.tensor(nchw(x), requires_grad=True)
    tensor, padding = padded(torch, tx, g, 0.0)
    pool = torch.nn.functional.avg_pool2d
    ty = pool(tensor, g.kernel, g.stride, padding, g.ceil_mode, include)
    if tensor is not tx and not include:
        ty = ty / pool(padded(torch, torch.ones_like(tx), g, 0.0)[0], g.kernel, g.stride)
    ty.backward(torch.tensor(nchw(dy)))
    scale = float(np.abs(x).max()) or 1.0
    assert_close(reference.avg_pool2d(x, case["kernel"], **case["options"]), nhwc(ty), terms=taps(case), scale=scale)
    dx = reference.avg_pool2d_backward(dy, x.shape, case["kernel"], **case["options"])
    assert_close(dx, nhwc(tx.grad), terms=taps(case), scale=float(np.abs(dy).max()))


IMPLEMENTATIONS = pytest.mark.parametrize("impl", [pool2d, reference])


@IMPLEMENTATIONS
def test_max_by_hand(impl: Any) -> None:
    x = np.array([[1, 5, 2, 0], [3, 5, 9, 4], [7, 0, 1, 1], [0, 6, 1, 1]], np.float32).reshape(1, 4, 4, 1)
    y, argmax = impl.max_pool2d(x, 2)
    assert y[0, :, :, 0].tolist() == [[5, 9], [7, 1]]
    assert argmax[0, :, :, 0].tolist() == [[1, 2], [0, 0]]  # of equal maxima the first
    dx = impl.max_pool2d_backward(np.array([[1, 2], [3, 4]], np.float32).reshape(1, 2, 2, 1), argmax, x.shape, 2)
    assert dx[0, :, :, 0].tolist() == [[0, 1, 0, 0], [0, 0, 2, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


@IMPLEMENTATIONS
def test_max_of_overlapping_windows_adds_up(impl: Any) -> None:
    y, argmax = impl.max_pool2d(one_row(1, 8, 2, 3), (1, 3), stride=1, padding=(0, 1))
    assert y.ravel().tolist() == [8, 8, 8, 3]
    assert argmax.ravel().tolist() == [2, 1, 0, 1]
    dx = impl.max_pool2d_backward(one_row(1, 10, 100, 1000), argmax, (1, 1, 4, 1), (1, 3), stride=1, padding=(0, 1))
    assert dx.ravel().tolist() == [0, 111, 0, 1000]


@IMPLEMENTATIONS
def test_max_ignores_padding_and_takes_nan(impl: Any) -> None:
    y, argmax = impl.max_pool2d(one_row(-5, -7, np.nan, np.nan), (1, 2), padding=((0, 0), (1, 0)), ceil_mode=True)
    # windows: padding -5 | -7 nan | nan
    np.testing.assert_array_equal(y.ravel(), [-5, np.nan, np.nan])
    assert argmax.ravel().tolist() == [1, 1, 0]
    y, argmax = impl.max_pool2d(one_row(np.nan, 4, np.nan, 5), (1, 4))
    assert np.isnan(y).all() and argmax.ravel().tolist() == [2]  # the last NaN, as in PyTorch
    y, argmax = impl.max_pool2d(one_row(-np.inf, -np.inf, -np.inf), (1, 3))
    assert y.ravel().tolist() == [-np.inf] and argmax.ravel().tolist() == [0]


@IMPLEMENTATIONS
def test_a_dilated_window_on_padding_alone(impl: Any) -> None:
    # taps at -2 and 1, then at -1 and 2, of a map of one element: neither window meets it
    options = {"dilation": (1, 3), "padding": ((0, 0), (2, 2)), "stride": 1}
    y, argmax = impl.max_pool2d(one_row(3.0), (1, 2), **options)
    assert y.ravel().tolist() == [-np.inf, -np.inf] and argmax.ravel().tolist() == [0, 0]
    assert impl.max_pool2d_backward(one_row(1, 1), argmax, (1, 1, 1, 1), (1, 2), **options).tolist() == [[[[0.0]]]]


@IMPLEMENTATIONS
def test_avg_by_hand(impl: Any) -> None:
    x = one_row(6, 12, 30, 60)
    options = {"stride": (1, 2), "padding": (0, 1), "ceil_mode": True}
    # windows: padding 6 12 | 12 30 60 | 60 padding (and one beyond the padding, which never counts)
    y = impl.avg_pool2d(x, (1, 3), **options)
    assert_close(y.ravel(), np.array([18 / 3, 102 / 3, 60 / 2]))
    y = impl.avg_pool2d(x, (1, 3), count_include_pad=False, **options)
    assert_close(y.ravel(), np.array([18 / 2, 102 / 3, 60 / 1]))
    dx = impl.avg_pool2d_backward(one_row(6, 12, 30), x.shape, (1, 3), **options)
    assert_close(dx.ravel(), np.array([2.0, 2 + 4, 4, 4 + 15]))
    dx = impl.avg_pool2d_backward(one_row(6, 12, 30), x.shape, (1, 3), count_include_pad=False, **options)
    assert_close(dx.ravel(), np.array([3.0, 3 + 4, 4, 4 + 30]))


@IMPLEMENTATIONS
def test_avg_passes_nan_on(impl: Any) -> None:
    for kernel in ((1, 2), (2, 2)):
        x = np.ones((1, 4, 4, 3))
        x[0, 1, 1, 2] = np.nan
        y = impl.avg_pool2d(x, kernel)
        assert np.isnan(y).sum() == 1 and np.isnan(y[0, 1 // kernel[0], 0, 2])


@IMPLEMENTATIONS
def test_global_avg_by_hand(impl: Any) -> None:
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    assert impl.global_avg_pool2d(x).tolist() == [[5.0, 6.0]]
    dx = impl.global_avg_pool2d_backward(np.array([[6.0, 12.0]]), x.shape)
    np.testing.assert_array_equal(dx, np.broadcast_to([1.0, 2.0], x.shape))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 7, 7, 5), (2, 28, 28, 3), (2, 5, 64, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_global_avg(shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, dy = (1000 + rng.standard_normal(shape)).astype(dtype), rng.standard_normal((shape[0], shape[3])).astype(dtype)
    y, dx = pool2d.global_avg_pool2d(x), pool2d.global_avg_pool2d_backward(dy, shape)
    assert y.dtype == dx.dtype == dtype
    assert_close(y, reference.global_avg_pool2d(x.astype(np.float64)))  # a long sum does not lose digits
    assert_close(dx, reference.global_avg_pool2d_backward(dy, shape))
    torch = torch_or_skip()
    tx = torch.tensor(nchw(x.astype(np.float64)), requires_grad=True)
    ty = torch.nn.functional.adaptive_avg_pool2d(tx, 1)[:, :, 0, 0]
    ty.backward(torch.tensor(dy.astype(np.float64)))
    assert_close(reference.global_avg_pool2d(x.astype(np.float64)), ty.detach().numpy(), terms=x[0, ..., 0].size)
    assert_close(reference.global_avg_pool2d_backward(dy.astype(np.float64), shape), nhwc(tx.grad))


@pytest.mark.parametrize("kernel", [(16, 16), (16, 17), 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_windows(kernel: Any, dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 23, 24, 3)).astype(dtype)
    options = {"stride": (2, 3), "padding": 2}
    y, argmax = pool2d.max_pool2d(x, kernel, **options)
    expected, expected_argmax = reference.max_pool2d(x, kernel, **options)
    assert argmax.dtype == (np.uint8 if kernel == (16, 16) else np.int32)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, expected_argmax)
    dx = pool2d.max_pool2d_backward(y, argmax, x.shape, kernel, **options)
    assert_close(dx, reference.max_pool2d_backward(y, argmax, x.shape, kernel, **options), terms=12)
    exact = x.astype(np.float64)
    scale = float(np.abs(x).max())
    assert_close(pool2d.avg_pool2d(x, kernel, **options), reference.avg_pool2d(exact, kernel, **options), scale=scale)


@pytest.mark.parametrize("shape", [(3, 28, 28, 32), (2, 7, 7, 128), (1, 15, 14, 64), (2, 3, 3, 256), (5, 9, 2, 3)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_network_shapes(shape: tuple[int, ...], ceil_mode: bool) -> None:
    case = {"shape": shape, "kernel": 2, "options": {"ceil_mode": ceil_mode}, "dtype": np.float32, "seed": 3}
    x, dy = arrays({**case, "special": False})
    y, argmax = pool2d.max_pool2d(x, 2, ceil_mode=ceil_mode)
    expected, expected_argmax = reference.max_pool2d(x, 2, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, expected_argmax)
    np.testing.assert_array_equal(
        pool2d.max_pool2d_backward(dy, argmax, shape, 2, ceil_mode=ceil_mode),
        reference.max_pool2d_backward(dy, argmax, shape, 2, ceil_mode=ceil_mode),
    )


@settings(max_examples=40)
@given(case=cases("max"))
def test_max_reference_gradient(case: Case) -> None:
    rng = np.random.default_rng(case["seed"])
    kernel, options = case["kernel"], case["options"]
    g = geometry(case["shape"], kernel, options)
    assume(all(window for _, _, window in reference._windows(g)))  # -inf has no differences
    x, dy = rng.standard_normal(g.x_shape), rng.standard_normal(g.y_shape)
    dx = reference.max_pool2d_backward(dy, reference.max_pool2d(x, kernel, **options)[1], x.shape, kernel, **options)
    check_gradient(lambda v: reference.max_pool2d(v, kernel, **options)[0], dx, x, dy, rng)


@settings(max_examples=40)
@given(case=cases("avg"))
def test_avg_reference_gradient(case: Case) -> None:
    rng = np.random.default_rng(case["seed"])
    kernel, options = case["kernel"], case["options"]
    g = geometry(case["shape"], kernel, options)
    x, dy = rng.standard_normal(g.x_shape), rng.standard_normal(g.y_shape)
    dx = reference.avg_pool2d_backward(dy, x.shape, kernel, **options)
    check_gradient(lambda v: reference.avg_pool2d(v, kernel, **options), dx, x, dy, rng)


def test_bits_do_not_depend_on_threads() -> None:
    x = np.random.default_rng(1).standard_normal((5, 13, 11, 6), dtype=np.float32)
    options = {"stride": 1, "padding": 1}
    threads, results = numba.get_num_threads(), []
    for count in (1, threads):
        numba.set_num_threads(count)
        try:
            y, argmax = pool2d.max_pool2d(x, 3, **options)
            mean = pool2d.avg_pool2d(x, 3, **options)
            results.append(
                (
                    y,
                    argmax,
                    mean,
                    pool2d.max_pool2d_backward(mean, argmax, x.shape, 3, **options),
                    pool2d.avg_pool2d_backward(mean, x.shape, 3, **options),
                )
            )
        finally:
            numba.set_num_threads(threads)
    for alone, many in zip(*results, strict=True):
        assert alone.tobytes() == many.tobytes()


X = np.ones((2, 5, 5, 3), np.float32)


@pytest.mark.parametrize("pool", [pool2d.max_pool2d, pool2d.avg_pool2d])
@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ShapeError, r"x must have 4 dimensions \(N, H, W, C\), got shape \(5, 5, 3\)", {"x": X[0]}),
        (ShapeError, "empty maps cannot be pooled", {"x": X[:, :0]}),
        (ShapeError, "pooling window of 6x6 .* larger than the padded map of 5x5", {"kernel_size": 6}),
        (DTypeError, "x must be float32 or float64, got int64", {"x": X.astype(np.int64)}),
        (DTypeError, "expected numpy or cupy arrays", {"x": [[1.0]]}),
        (ConfigError, "kernel_size must be at least 1, got 0", {"kernel_size": 0}),
        (ConfigError, "stride must be at least 1, got 0", {"stride": (1, 0)}),
        (ConfigError, "padding .* at most half of the window", {"padding": 2}),
        (ConfigError, 'padding must be "valid", "same"', {"padding": "full"}),
    ],
)
def test_bad_arguments_are_refused(pool: Any, error: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        pool(**{"x": X, "kernel_size": 2, **change})


def test_bad_arguments_of_backward_are_refused() -> None:
    dy = np.ones((2, 2, 2, 3), np.float32)
    argmax = np.zeros(dy.shape, np.uint8)
    with pytest.raises(ConfigError, match="dilation must be at least 1"):
        pool2d.max_pool2d(X, 2, dilation=0)
    with pytest.raises(ShapeError, match=r"dy must have shape \(2, 2, 2, 3\), got \(2, 2, 2, 1\)"):
        pool2d.max_pool2d_backward(dy[..., :1], argmax, X.shape, 2)
    with pytest.raises(ShapeError, match="argmax must have shape"):
        pool2d.max_pool2d_backward(dy, argmax[:1], X.shape, 2)
    with pytest.raises(DTypeError, match="argmax must be uint8, as max_pool2d returns it, got int64"):
        pool2d.max_pool2d_backward(dy, argmax.astype(np.int64), X.shape, 2)
    with pytest.raises(DTypeError, match="dy must be float32 or float64"):
        pool2d.max_pool2d_backward(dy.astype(np.int32), argmax, X.shape, 2)
    with pytest.raises(ShapeError, match="dy must have shape"):
        pool2d.avg_pool2d_backward(dy[:1], X.shape, 2)
    with pytest.raises(DTypeError, match="dy must be float32 or float64"):
        pool2d.avg_pool2d_backward(dy.astype(np.float16), X.shape, 2)
    with pytest.raises(ShapeError, match="4 dimensions"):
        pool2d.avg_pool2d_backward(dy, X.shape[1:], 2)
    with pytest.raises(ShapeError, match=r"x must have 4 dimensions \(N, H, W, C\)"):
        pool2d.global_avg_pool2d(X[0])
    with pytest.raises(ShapeError, match=r"dy must have 2 dimensions \(N, C\)"):
        pool2d.global_avg_pool2d_backward(dy, X.shape)
    with pytest.raises(ShapeError, match="dy must have shape"):
        pool2d.global_avg_pool2d_backward(np.ones((2, 4)), X.shape)
