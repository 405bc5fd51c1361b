"""Batch norm and pooling: the reference by hand, against differences and PyTorch; the CPU against the reference."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.backend import Gather, backend_of
from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import batchnorm_pool, relu
from gpunet.ops.batchnorm import batch_norm, batch_norm_backward
from gpunet.ops.batchnorm_pool import (
    BatchNormMaxPoolSaved,
    batch_norm_max_pool,
    batch_norm_max_pool_backward,
    cpu,
    reference,
)
from gpunet.ops.pool2d import max_pool2d, max_pool2d_backward
from gpunet.parallel import Serial
from gpunet.parallel.lockstep import Lockstep
from tests.ops.test_batchnorm import NAMES, PIECE, Arrays, Case, scales, wide
from tests.support import assert_close, check_gradient, torch_or_skip


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Maps of 2 to 9 rows and columns, now and then one of several pieces across, and the options."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(2, 9), st.integers(1, 9)))
    if draw(st.integers(0, 9)) == 0:
        shape = (1, 5, draw(st.integers(250, 300)), shape[3])
    return {
        "shape": shape,
        "options": {
            "training": draw(st.booleans()),
            "momentum": draw(st.sampled_from([0.0, 0.1, 1.0])),
            "eps": draw(st.sampled_from([1e-5, 0.5])),
            "relu": draw(st.booleans()),
        },
        "mean": draw(st.sampled_from([0.0, -3.0, 1000.0])),
        "std": draw(st.sampled_from([0.5, 20.0])),
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "seed": draw(st.integers(0, 10_000)),
    }


def arrays(case: Case) -> tuple[Arrays, np.ndarray]:
    """The five arrays of the forward pass, half of gamma negative, and dy; none is contiguous."""
    rng = np.random.default_rng(case["seed"])
    n, h, w, c = case["shape"]
    values = {
        "x": rng.normal(case["mean"], case["std"], (n, h, w, 2 * c)),
        "gamma": rng.uniform(0.5, 2, 2 * c) * rng.choice([-1, 1], 2 * c),
        "beta": rng.standard_normal(2 * c),
        "running_mean": rng.normal(case["mean"], case["std"], 2 * c),
        "running_var": case["std"] ** 2 * rng.uniform(0.5, 2, 2 * c),
    }
    dy = rng.standard_normal((n, h // 2, 2 * (w // 2), c)).astype(case["dtype"])[:, :, ::2]
    return {name: value.astype(case["dtype"])[..., ::2] for name, value in values.items()}, dy


def normalised(given: Arrays, saved: BatchNormMaxPoolSaved) -> np.ndarray:
    """What is pooled, in float64."""
    y: np.ndarray = given["gamma"] * (given["x"] - saved.mean) * saved.inv_std + given["beta"]
    return y


def windows(maps: np.ndarray) -> np.ndarray:
    """(N, H // 2, W // 2, C, 4): the taps of each window last."""
    n, h, w, c = maps.shape
    cut = maps[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)


def check(case: Case, results: tuple[np.ndarray, BatchNormMaxPoolSaved], moved: Arrays, terms: int) -> None:
    """The forward pass's results and running statistics, on the host, against the reference in float64."""
    given, dy = arrays(case)
    exact = wide(given)
    expected, expected_saved = reference.batch_norm_max_pool(**exact, **case["options"])
    (y, saved), std = results, 1 / expected_saved.inv_std
    lost = 1.0 if case["dtype"] == np.float32 else 1 + abs(case["mean"]) / case["std"]  # as in batch norm's test
    scale = scales(exact, dy, expected_saved)["y"] * lost
    assert y.dtype == case["dtype"] and saved.argmax.dtype == np.uint8
    assert saved.mean.dtype == saved.inv_std.dtype == np.float64 and saved.training == case["options"]["training"]
    assert_close(y, expected, terms=terms, scale=scale)
    assert_close((saved.mean - expected_saved.mean) / std, 0 * std, terms=terms, dtype=case["dtype"], scale=lost)
    assert_close(saved.inv_std * std, 0 * std + 1, terms=terms, dtype=case["dtype"])
    # Two values may be nearer than their rounding: then either is the maximum. Tap 4 is ReLU's zero.
    taps = np.pad(windows(normalised(exact, expected_saved)), [(0, 0)] * 4 + [(0, 1)])
    chosen = np.take_along_axis(taps, saved.argmax[..., None].astype(int), -1)[..., 0]
    assert ((y <= 0) == (saved.argmax == 4)).all() if case["options"].get("relu") else (saved.argmax < 4).all()
    assert_close(chosen, expected, terms=terms, dtype=case["dtype"], scale=scale)
    for name in ("running_mean", "running_var"):
        assert_close(moved[name], exact[name], terms=terms)
        if not case["options"]["training"]:
            np.testing.assert_array_equal(moved[name], given[name])


def check_parts(case: Case, parts: int, terms: int, device: Any = None) -> None:
    """A batch in parts that meet, against the reference for the whole batch."""
    put, get = (device.array, device.host) if device else (np.ascontiguousarray, np.asarray)
    given, dy = arrays(case)
    found: list[Any] = [None] * parts

    def work(index: int, gather: Gather) -> None:
        rows = slice(index * len(dy) // parts, (index + 1) * len(dy) // parts)
        ours = {name: put(array[rows] if name == "x" else array.copy()) for name, array in given.items()}
        y, saved = batch_norm_max_pool(**ours, **case["options"], gather=gather)
        gradients = batch_norm_max_pool_backward(put(dy[rows]), ours["x"], ours["gamma"], saved)
        moved = {name: get(ours[name]) for name in ("running_mean", "running_var")}
        mine = get(saved.mean), get(saved.inv_std), get(saved.argmax), moved
        found[index] = [get(y), *mine, *map(get, gradients)]

    Lockstep(Serial(), backend_of(put(dy)), parts).run(work, lambda index: None)
    ys, means, inv_stds, argmaxes, moved, dxs, dgammas, dbetas = zip(*found, strict=True)
    for each in range(parts):
        saved = BatchNormMaxPoolSaved(means[each], inv_stds[each], np.concatenate(argmaxes), True)
        check(case, (np.concatenate(ys), saved), moved[each], terms)
    check_backward(case, saved, (np.concatenate(dxs), sum(dgammas), sum(dbetas)), terms)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_that_meet_are_the_whole_batch(dtype: Any) -> None:
    options = {"training": True, "momentum": 0.1, "eps": 1e-5}
    check_parts(
        {"shape": (6, 5, 7, 8), "options": options, "mean": -3.0, "std": 2.0, "dtype": dtype, "seed": 1}, 3, PIECE
    )


def check_backward(case: Case, saved: BatchNormMaxPoolSaved, gradients: tuple[np.ndarray, ...], terms: int) -> None:
    """The gradients for what the forward pass saved, on the host, against the reference in float64."""
    given, dy = arrays(case)
    exact = wide(given)
    exact_saved = reference.batch_norm_max_pool(**exact, **case["options"])[1]._replace(argmax=saved.argmax)
    wanted = reference.batch_norm_max_pool_backward(dy.astype(np.float64), exact["x"], exact["gamma"], exact_saved)
    scale = scales(exact, dy, exact_saved)
    lost = 1.0 if case["dtype"] == np.float32 else 1 + abs(case["mean"]) / case["std"]
    terms = max(terms, dy.size // dy.shape[-1])
    for name, actual, right in zip(("dx", "dgamma", "dbeta"), gradients, wanted, strict=True):
        assert actual.dtype == case["dtype"]
        assert_close(actual, right, terms=terms, scale=scale[name] * lost)


@settings(max_examples=250)
@given(case=cases())
def test_cpu_matches_reference(case: Case) -> None:
    given, dy = arrays(case)
    kept, kept_dy = {name: array.copy() for name, array in given.items()}, dy.copy()
    results = batch_norm_max_pool(**given, **case["options"])
    check(case, results, given, PIECE)
    saved = results[1]
    strided = saved._replace(argmax=np.repeat(saved.argmax, 2, 3)[..., ::2])
    gradients = batch_norm_max_pool_backward(dy, given["x"], given["gamma"], strided)
    check_backward(case, saved, gradients, PIECE)
    for name in ("x", "gamma", "beta"):
        np.testing.assert_array_equal(given[name], kept[name])
    np.testing.assert_array_equal(dy, kept_dy)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("change", [None, ("gamma", 0.0), ("gamma", 1e-44), ("gamma", 1e-35), ("beta", 30.0)])
def test_sums_over_outputs_where_they_tell_the_maxima(
    change: tuple[str, float] | None, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not if a channel's gamma is small, or its beta many times as large."""
    options = {"training": True, "momentum": 0.1, "eps": 1e-5, "relu": relu}
    case: Case = {"shape": (9, 6, 7, 5), "options": options, "mean": -3.0, "std": 2.0, "dtype": np.float32, "seed": 1}
    given, dy = arrays(case)
    given["beta"] = given["beta"].clip(-1, 1)
    given["beta"][2] = 0  # else no gamma that small would tell anything
    if change is not None:
        given[change[0]][2] = change[1]
    exact = wide(given)
    _, saved = batch_norm_max_pool(**given, **options)
    used: list[str] = []

    def spy(name: str, kernel: Any) -> Any:
        return lambda *args: (used.append(name), kernel(*args))

    for name in ("_piece_gradients", "_piece_gradients_of_outputs"):
        monkeypatch.setattr(cpu, name, spy(name, getattr(cpu, name)))
    gradients = batch_norm_max_pool_backward(dy, given["x"], given["gamma"], saved)
    assert set(used) == {"_piece_gradients_of_outputs" if change is None else "_piece_gradients"}
    exact_saved = reference.batch_norm_max_pool(**exact, **options)[1]._replace(argmax=saved.argmax)
    wanted = reference.batch_norm_max_pool_backward(dy.astype(np.float64), exact["x"], exact["gamma"], exact_saved)
    scale = scales(exact, dy, exact_saved)
    for name, actual, right in zip(("dx", "dgamma", "dbeta"), gradients, wanted, strict=True):
        assert_close(actual, right, terms=dy[..., 0].size, scale=scale[name])


@settings(max_examples=100)
@given(case=cases(), special=st.booleans())
def test_forward_has_the_bits_of_the_two_ops(case: Case, special: bool) -> None:
    """Or of three, with ReLU. In inference also with ties, NaN and infinities, which in training make a channel NaN."""
    given, _ = arrays(case)
    rng = np.random.default_rng(case["seed"])
    given["x"][...] = np.round(given["x"])
    if special:
        given["x"][rng.random(given["x"].shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
        given["gamma"][0] = 0
    apart = {name: array.copy() for name, array in given.items()}
    y, saved = batch_norm_max_pool(**given, **case["options"])
    full, norm_saved = batch_norm(**apart, **{k: v for k, v in case["options"].items() if k != "relu"})
    expected, argmax = max_pool2d(full, 2)
    if case["options"]["relu"]:
        expected = relu(expected)
        argmax[expected == 0] = 4
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(saved.argmax, argmax)
    for name in ("mean", "inv_std"):
        np.testing.assert_array_equal(getattr(saved, name), getattr(norm_saved, name))
    for name in ("running_mean", "running_var"):
        np.testing.assert_array_equal(given[name], apart[name])


@settings(max_examples=100)
@given(case=cases())
def test_reference_matches_pytorch(case: Case) -> None:
    torch = torch_or_skip()
    given, dy = arrays({**case, "dtype": np.float64})
    tensors = {name: torch.tensor(given[name]) for name in NAMES}
    for name in ("x", "gamma", "beta"):
        tensors[name].requires_grad_(True)
    options = case["options"]
    functional = torch.nn.functional
    full = functional.batch_norm(
        tensors["x"].movedim(-1, 1), tensors["running_mean"], tensors["running_var"], tensors["gamma"],
        tensors["beta"], options["training"], options["momentum"], options["eps"],
    )  # fmt: skip
    ty = functional.max_pool2d(full, 2).movedim(1, -1)
    ty = ty.relu() if options["relu"] else ty
    ty.backward(torch.tensor(dy))
    y, saved = reference.batch_norm_max_pool(**given, **options)
    scale, rows = scales(given, dy, saved), given["x"].size // dy.shape[-1]
    lost = 1 + abs(case["mean"]) / case["std"]
    assert_close(y, ty.detach().numpy(), terms=rows, scale=scale["y"] * lost)
    for name in ("running_mean", "running_var"):
        assert_close(given[name], tensors[name].numpy(), terms=rows)
    gradients = reference.batch_norm_max_pool_backward(dy, given["x"], given["gamma"], saved)
    for name, actual in zip(("dx", "dgamma", "dbeta"), gradients, strict=True):
        wanted = tensors[{"dx": "x", "dgamma": "gamma", "dbeta": "beta"}[name]].grad.numpy()
        assert_close(actual, wanted, terms=rows, scale=scale[name] * lost)


IMPLEMENTATIONS = pytest.mark.parametrize("impl", [batchnorm_pool, reference])


def maps(*rows: list[float]) -> np.ndarray:
    """One map of one channel."""
    return np.array(rows, np.float64)[None, :, :, None]


@IMPLEMENTATIONS
@pytest.mark.parametrize(("gamma", "tap", "value"), [(2.0, 3, 4.0), (-2.0, 0, 3.0)])
def test_by_hand(impl: Any, gamma: float, tap: int, value: float) -> None:
    # mean 2, biased variance 10/6, and with eps = 7/3 a standard deviation of 2; the last column is in no window
    x, vector = maps([0, 2, 1], [3, 4, 2]), np.array([gamma])
    running_mean, running_var = np.array([10.0]), np.array([20.0])
    y, saved = impl.batch_norm_max_pool(
        x, vector, np.array([1.0 if gamma < 0 else 2.0]), running_mean, running_var, training=True, eps=7 / 3
    )
    assert (saved.argmax.tolist(), saved.training) == ([[[[tap]]]], True)
    assert_close(y, maps([value]))
    assert_close(saved.mean, np.array([2.0]))
    assert_close(saved.inv_std, np.array([0.5]))
    assert_close(running_mean, np.array([0.9 * 10 + 0.1 * 2]))
    assert_close(running_var, np.array([0.9 * 20 + 0.1 * 2]))  # the unbiased variance is 2
    # normalised: (x - 2) / 2, so 1 or -1 there; dx = (d - mean(d) - normalised * mean(d * normalised)) * gamma / 2
    dx, dgamma, dbeta = impl.batch_norm_max_pool_backward(maps([6]), x, vector, saved)
    there = 1.0 if gamma > 0 else -1.0
    d = np.zeros((1, 2, 3, 1))
    d[0, tap // 2, tap % 2, 0] = 6
    assert_close(dx, gamma / 2 * (d - 1 - there * (x - 2) / 2))
    assert_close(dgamma, np.array([6 * there]))
    assert_close(dbeta, np.array([6.0]))


@IMPLEMENTATIONS
def test_inference_by_hand(impl: Any) -> None:
    x, one = maps([5, 2, 9], [3, 5, 9], [9, 9, 9]), np.array([1.0])
    running_mean, running_var = np.array([2.0]), np.array([8.0])
    y, saved = impl.batch_norm_max_pool(x, 3 * one, one, running_mean, running_var, training=False, eps=1)
    assert (saved.argmax.tolist(), saved.training) == ([[[[0]]]], False)  # of equal maxima the first
    assert_close(y, maps([3 * (5 - 2) / 3 + 1]))
    assert (running_mean.tolist(), running_var.tolist()) == ([2.0], [8.0])
    dx, dgamma, dbeta = impl.batch_norm_max_pool_backward(maps([7]), x, 3 * one, saved)
    assert_close(dx, maps([7, 0, 0], [0, 0, 0], [0, 0, 0]))
    assert_close(dgamma, np.array([7.0]))
    assert_close(dbeta, np.array([7.0]))


@IMPLEMENTATIONS
def test_relu_by_hand(impl: Any) -> None:
    """Of three windows with maxima 1, 0 and -1 the first alone passes a gradient, and it alone counts in the sums."""
    x, one, zero = maps([1, -2, 0, -3, -1, -4], [-5, -6, -7, -8, -9, -9]), np.array([1.0]), np.array([0.0])
    y, saved = impl.batch_norm_max_pool(x, one, zero, zero, one.copy(), training=False, eps=1e-30, relu=True)
    assert (y.tolist(), saved.argmax.tolist()) == ([[[[1.0], [0.0], [0.0]]]], [[[[0], [4], [4]]]])
    dx, dgamma, dbeta = impl.batch_norm_max_pool_backward(maps([2, 3, 5]), x, one, saved)
    assert_close(dx, maps([2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]))
    assert (dgamma.tolist(), dbeta.tolist()) == ([2.0], [2.0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (3, 5, 3, 2), (1, 2, 2, 1)])
def test_reference_gradients(shape: tuple[int, ...], training: bool) -> None:
    given, dy = arrays({"shape": shape, "mean": 1.0, "std": 2.0, "dtype": np.float64, "seed": 5})
    rng = np.random.default_rng(6)

    def output(**changed: np.ndarray) -> np.ndarray:
        fresh = {name: array.copy() for name, array in given.items()}  # the running statistics are written to
        y: np.ndarray = reference.batch_norm_max_pool(**{**fresh, **changed}, training=training)[0]
        return y

    saved = reference.batch_norm_max_pool(**{name: array.copy() for name, array in given.items()}, training=training)[1]
    dx, dgamma, dbeta = reference.batch_norm_max_pool_backward(dy, given["x"], given["gamma"], saved)
    check_gradient(lambda v: output(x=v), dx, given["x"], dy, rng)
    check_gradient(lambda v: output(gamma=v), dgamma, given["gamma"], dy, rng)
    check_gradient(lambda v: output(beta=v), dbeta, given["beta"], dy, rng)


def test_nan_stays_in_its_channel() -> None:
    rng = np.random.default_rng(8)
    x, dy = rng.standard_normal((2, 7, 7, 4)).astype(np.float32), np.ones((2, 3, 3, 4), np.float32)
    x[1, 3, 2, 2] = np.nan
    vectors = [np.full(4, value, np.float32) for value in (1.0, 0.0, 0.0, 1.0)]
    y, saved = batch_norm_max_pool(x, *vectors, training=True)
    dx = batch_norm_max_pool_backward(dy, x, vectors[0], saved)[0]
    for array in (y, dx):
        assert np.isnan(array[..., 2]).all() and np.isfinite(array[..., [0, 1, 3]]).all()
    # In inference the NaN is the maximum of its window, and dx does not depend on x.
    fresh = np.ones(4, np.float32)
    y, saved = batch_norm_max_pool(x, fresh, fresh, fresh, fresh, training=False)
    assert np.argwhere(np.isnan(y)).tolist() == [[1, 1, 1, 2]] and saved.argmax[1, 1, 1, 2] == 2
    dx, dgamma, dbeta = batch_norm_max_pool_backward(dy, x, fresh, saved)
    assert np.isfinite(dx).all() and np.isfinite(dbeta).all() and np.isnan(dgamma).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("shape", [(8, 28, 28, 32), (3, 7, 7, 130), (128, 3, 3, 256), (2, 5, 301, 3)])
def test_bits_do_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    case = {"shape": shape, "mean": 1.0, "std": 2.0, "dtype": np.float32, "seed": 9}
    threads, results = numba.get_num_threads(), []
    for count in (1, threads):
        numba.set_num_threads(count)
        try:
            given, dy = arrays(case)
            y, saved = batch_norm_max_pool(**given, training=True)
            gradients = batch_norm_max_pool_backward(dy, given["x"], given["gamma"], saved)
            results.append((y, *saved[:3], given["running_mean"], given["running_var"], *gradients))
        finally:
            numba.set_num_threads(threads)
    for alone, many in zip(*results, strict=True):
        assert alone.tobytes() == many.tobytes()


@pytest.mark.parametrize("shape", [(16, 28, 28, 32), (16, 14, 14, 64), (64, 7, 7, 128), (128, 3, 3, 256), (1, 2, 2, 1)])
def test_network_shapes(shape: tuple[int, ...]) -> None:
    options = {"training": True, "momentum": 0.1, "eps": 1e-5}
    case = {"shape": shape, "options": options, "mean": 0.2, "std": 1.5, "dtype": np.float32, "seed": 10}
    given, dy = arrays(case)
    y, saved = batch_norm_max_pool(**given, **options)
    check(case, (y, saved), given, PIECE)
    gradients = batch_norm_max_pool_backward(dy, given["x"], given["gamma"], saved)
    check_backward(case, saved, gradients, PIECE)
    # The two ops add in another order, but pass the same terms on.
    dfull = max_pool2d_backward(dy, saved.argmax, shape, 2)
    apart = batch_norm_backward(dfull, given["x"], given["gamma"], saved)
    assert_close(gradients[0], apart[0], terms=PIECE)


@pytest.mark.parametrize("out_width", [1, 3, 14, 63, 64, 65, 150])
@pytest.mark.parametrize("channels", [1, 32, 100, 512, 5000])
def test_pieces_hold_few_windows(out_width: int, channels: int) -> None:
    rows, columns = cpu._piece_shape(out_width, channels)
    assert 1 <= rows * columns <= PIECE and columns <= out_width and (rows == 1 or columns == out_width)


def test_gradients_go_where_they_are_wanted() -> None:
    given, dy = arrays({"shape": (2, 5, 5, 3), "mean": 0.0, "std": 1.0, "dtype": np.float32, "seed": 3})
    saved = batch_norm_max_pool(**given, training=True)[1]
    for impl in (batchnorm_pool, reference):
        _, dgamma, dbeta = impl.batch_norm_max_pool_backward(dy, given["x"], given["gamma"], saved)
        out = np.empty((2, 3), np.float32)
        results = impl.batch_norm_max_pool_backward(dy, given["x"], given["gamma"], saved, out=(out[0], out[1]))
        assert np.shares_memory(results[1], out) and np.shares_memory(results[2], out)
        np.testing.assert_array_equal(out, [dgamma, dbeta])


X = np.ones((2, 4, 5, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ShapeError, r"x must have 4 dimensions \(N, H, W, C\), got shape \(5, 3\)", {"x": X[0, 0]}),
        (ShapeError, r"empty maps cannot be pooled: x \(2, 0, 5, 3\)", {"x": X[:, :0]}),
        (ShapeError, "window of 2x2 .* larger than the padded map of 1x5", {"x": X[:, :1]}),
        (ShapeError, "window of 2x2 .* larger than the padded map of 4x1", {"x": X[:, :, :1]}),
        (ShapeError, r"gamma must have shape \(3,\), got \(1, 3\)", {"gamma": np.ones((1, 3), np.float32)}),
        (ShapeError, r"beta must have shape \(3,\), got \(4,\)", {"beta": np.ones(4, np.float32)}),
        (ShapeError, "running_mean must have shape", {"running_mean": np.ones(1, np.float32)}),
        (ShapeError, "running_var must have shape", {"running_var": np.ones(5, np.float32)}),
        (DTypeError, "x must be float32 or float64, got float16", {"x": X.astype(np.float16)}),
        (DTypeError, "running_var is float64 but x is float32", {"running_var": np.ones(3)}),
        (DTypeError, "expected numpy or cupy arrays", {"beta": [1.0, 2.0, 3.0]}),
        (ConfigError, r"momentum must be in \[0, 1\], got 1.5", {"momentum": 1.5}),
        (ConfigError, r"eps must be in \(0, inf\], got 0", {"eps": 0}),
    ],
)
def test_bad_arguments_are_refused(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    given = dict(zip(NAMES, [X, *(np.ones(3, np.float32) for _ in range(4))], strict=True))
    with pytest.raises(error, match=message):
        batch_norm_max_pool(**{**given, "training": True, **change})
    assert (given["running_mean"] == 1).all() and (given["running_var"] == 1).all()


DY = np.ones((2, 2, 2, 3), np.float32)
VECTOR = np.ones(3, np.float32)
SAVED = BatchNormMaxPoolSaved(np.ones(3), np.ones(3), np.zeros(DY.shape, np.uint8), True)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ShapeError, r"dy must have shape \(2, 2, 2, 3\), got \(2, 4, 5, 3\)", {"dy": X}),
        (ShapeError, "gamma must have shape", {"gamma": np.ones(2, np.float32)}),
        (ShapeError, r"saved.mean must have shape \(3,\)", {"saved": SAVED._replace(mean=np.ones(2))}),
        (ShapeError, r"saved.inv_std must have shape \(3,\)", {"saved": SAVED._replace(inv_std=np.ones(4))}),
        (ShapeError, "saved.argmax must have shape", {"saved": SAVED._replace(argmax=SAVED.argmax[:1])}),
        (DTypeError, "saved.argmax must be uint8", {"saved": SAVED._replace(argmax=SAVED.argmax.astype(np.int32))}),
        (ShapeError, r"saved.outputs\[0\] must have", {"saved": SAVED._replace(outputs=(DY[:1], VECTOR))}),
        (ShapeError, r"saved.outputs\[1\] must have", {"saved": SAVED._replace(outputs=(DY, VECTOR[:2]))}),
        (DTypeError, r"saved.outputs\[1\] is float64", {"saved": SAVED._replace(outputs=(DY, np.ones(3)))}),
        (DTypeError, "dy is float64 but x is float32", {"dy": DY.astype(np.float64)}),
        (ShapeError, r"out's dgamma must have shape \(3,\)", {"out": (np.ones(2, np.float32), None)}),
    ],
)
def test_bad_arguments_of_backward_are_refused(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        batch_norm_max_pool_backward(**{"dy": DY, "x": X, "gamma": np.ones(3, np.float32), "saved": SAVED, **change})
