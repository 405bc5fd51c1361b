"""Batch norm: the reference against hand-computed values, differences and PyTorch; the CPU against the reference."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet.backend import Gather, backend_of
from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops import batchnorm
from gpunet.ops.batchnorm import BatchNormSaved, batch_norm, batch_norm_backward, cpu, reference
from gpunet.parallel import Serial
from gpunet.parallel.lockstep import Lockstep
from tests.support import assert_close, check_gradient, large_means, torch_or_skip

Case = dict[str, Any]
Arrays = dict[str, np.ndarray]

NAMES = ("x", "gamma", "beta", "running_mean", "running_var")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A shape of rank 2 to 5, sometimes with several pieces of rows, and the options."""
    training = draw(st.booleans())
    leading = draw(
        st.one_of(
            st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), st.integers(250, 700).map(lambda n: (n,))
        )
    )
    if training and np.prod(leading) == 1:
        leading = (*leading, 2)
    return {
        "shape": (*leading[:4], draw(st.integers(1, 9))),
        "options": {
            "training": training,
            "momentum": draw(st.sampled_from([0.0, 0.1, 0.75, 1.0])),
            "eps": draw(st.sampled_from([1e-5, 1e-3, 0.5])),
        },
        "mean": draw(st.sampled_from([0.0, -3.0, 1000.0])),
        "std": draw(st.sampled_from([0.5, 1.0, 20.0])),
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "seed": draw(st.integers(0, 10_000)),
    }


def arrays(case: Case) -> tuple[Arrays, np.ndarray]:
    """The five arrays of the forward pass, and dy; all are slices of larger arrays, none contiguous."""
    rng = np.random.default_rng(case["seed"])
    *leading, c = case["shape"]
    x = rng.normal(case["mean"], case["std"], (*leading, 2 * c))
    given = {
        "x": x.astype(case["dtype"])[..., ::2],
        "gamma": rng.normal(1, 0.5, 2 * c).astype(case["dtype"])[::2],
        "beta": rng.standard_normal(2 * c).astype(case["dtype"])[::2],
        "running_mean": rng.normal(case["mean"], case["std"], 2 * c).astype(case["dtype"])[::2],
        "running_var": (case["std"] ** 2 * rng.uniform(0.5, 2, 2 * c)).astype(case["dtype"])[::2],
    }
    return given, rng.standard_normal((*leading[:-1], 2 * leading[-1], c)).astype(case["dtype"])[..., ::2, :]


def scales(given: Arrays, dy: np.ndarray, saved: BatchNormSaved) -> dict[str, float]:
    """The largest magnitudes of the terms that make up each result."""
    normalised = (given["x"] - saved.mean) * saved.inv_std
    factor = float(np.abs(given["gamma"] * saved.inv_std).max())
    largest, largest_dy = float(np.abs(normalised).max()), float(np.abs(dy).max())
    return {
        "y": float(np.abs(given["gamma"] * normalised).max() + np.abs(given["beta"]).max()),
        "dx": factor * largest_dy * (2 + largest**2),
        "dgamma": largest_dy * max(largest, 1.0),
        "dbeta": largest_dy,
    }


PIECE = 64
"""Additions of four rows each in the longest float32 sum: its length, for the tolerances."""


def wide(given: Arrays) -> Arrays:
    return {name: array.astype(np.float64) for name, array in given.items()}


@settings(max_examples=250)
@given(case=cases())
def test_cpu_matches_reference(case: Case) -> None:
    given, dy = arrays(case)
    exact, kept = wide(given), {name: array.copy() for name, array in given.items()}
    y, saved = batch_norm(**given, **case["options"])
    expected, expected_saved = reference.batch_norm(**exact, **case["options"])
    scale = scales(exact, dy, expected_saved)
    std, rows = 1 / expected_saved.inv_std, dy.size // dy.shape[-1]
    # The mean is a float64 number: for a float32 x that is exact, for a float64 x it is what the reference has too.
    lost = 1.0 if case["dtype"] == np.float32 else 1 + abs(case["mean"]) / case["std"]
    assert y.dtype == case["dtype"] and saved.mean.dtype == saved.inv_std.dtype == np.float64
    assert_close(y, expected, terms=PIECE, scale=scale["y"] * lost)
    assert_close((saved.mean - expected_saved.mean) / std, 0 * std, terms=PIECE, dtype=case["dtype"], scale=lost)
    assert_close(saved.inv_std * std, 0 * std + 1, terms=PIECE, dtype=case["dtype"])
    for name in ("running_mean", "running_var"):
        assert_close(given[name], exact[name], terms=PIECE)
        if not case["options"]["training"]:
            np.testing.assert_array_equal(given[name], kept[name])
    for name in ("x", "gamma", "beta"):
        np.testing.assert_array_equal(given[name], kept[name])

    kept_dy = dy.copy()
    gradients = batch_norm_backward(dy, given["x"], given["gamma"], saved)
    wanted = reference.batch_norm_backward(dy.astype(np.float64), exact["x"], exact["gamma"], expected_saved)
    for name, actual, right in zip(("dx", "dgamma", "dbeta"), gradients, wanted, strict=True):
        assert actual.dtype == case["dtype"]
        assert_close(actual, right, terms=max(rows, PIECE), scale=scale[name] * lost)
    np.testing.assert_array_equal(dy, kept_dy)


@settings(max_examples=250)
@given(case=cases())
def test_reference_matches_pytorch(case: Case) -> None:
    torch = torch_or_skip()
    given, dy = arrays({**case, "dtype": np.float64})
    tensors = {name: torch.tensor(given[name]) for name in NAMES}
    for name in ("x", "gamma", "beta"):
        tensors[name].requires_grad_(True)
    options = case["options"]
    ty = torch.nn.functional.batch_norm(
        tensors["x"].movedim(-1, 1), tensors["running_mean"], tensors["running_var"], tensors["gamma"],
        tensors["beta"], options["training"], options["momentum"], options["eps"],
    ).movedim(1, -1)  # fmt: skip
    ty.backward(torch.tensor(dy))
    y, saved = reference.batch_norm(**given, **options)
    scale, rows = scales(given, dy, saved), dy.size // dy.shape[-1]
    # PyTorch's own x * scale + offset loses what the mean has more than the deviations.
    lost = 1 + abs(case["mean"]) / case["std"]
    assert_close(y, ty.detach().numpy(), terms=rows, scale=scale["y"] * lost)
    for name in ("running_mean", "running_var"):
        assert_close(given[name], tensors[name].numpy(), terms=rows)
    gradients = reference.batch_norm_backward(dy, given["x"], given["gamma"], saved)
    for name, actual in zip(("dx", "dgamma", "dbeta"), gradients, strict=True):
        wanted = tensors[{"dx": "x", "dgamma": "gamma", "dbeta": "beta"}[name]].grad.numpy()
        assert_close(actual, wanted, terms=rows, scale=scale[name] * lost)


@pytest.mark.parametrize("impl", [batchnorm, reference])
def test_by_hand(impl: Any) -> None:
    x, gamma, beta = np.array([[1.0], [3.0]]), np.array([2.0]), np.array([1.0])
    running_mean, running_var = np.array([10.0]), np.array([20.0])
    # mean 2, biased variance 1, and with eps = 3 a standard deviation of 2
    y, saved = impl.batch_norm(x, gamma, beta, running_mean, running_var, training=True, momentum=0.1, eps=3)
    assert_close(y, np.array([[0.0], [2.0]]))
    assert (saved.mean.tolist(), saved.inv_std.tolist(), saved.training) == ([2.0], [0.5], True)
    assert_close(running_mean, np.array([0.9 * 10 + 0.1 * 2]))
    assert_close(running_var, np.array([0.9 * 20 + 0.1 * 2]))  # the unbiased variance is 2
    # normalised: -1/2 and 1/2; dx = dy - mean(dy) - normalised * mean(dy * normalised), times gamma / 2
    dx, dgamma, dbeta = impl.batch_norm_backward(np.array([[1.0], [0.0]]), x, gamma, saved)
    assert_close(dx, np.array([[1 - 0.5 - 0.125], [0 - 0.5 + 0.125]]))
    assert_close(dgamma, np.array([-0.5]))
    assert_close(dbeta, np.array([1.0]))


@pytest.mark.parametrize("impl", [batchnorm, reference])
def test_inference_by_hand(impl: Any) -> None:
    x, gamma, beta = np.array([[[5.0]]]), np.array([3.0]), np.array([1.0])
    running_mean, running_var = np.array([2.0]), np.array([8.0])
    y, saved = impl.batch_norm(x, gamma, beta, running_mean, running_var, training=False, eps=1)
    assert_close(y, np.array([[[3 * (5 - 2) / 3 + 1]]]))
    assert saved.training is False
    assert (running_mean.tolist(), running_var.tolist()) == ([2.0], [8.0])
    dx, dgamma, dbeta = impl.batch_norm_backward(np.array([[[7.0]]]), x, gamma, saved)
    assert_close(dx, np.array([[[7.0]]]))
    assert_close(dgamma, np.array([7.0]))
    assert_close(dbeta, np.array([7.0]))


def check_parts(impl: Any, shape: tuple[int, ...], parts: int, dtype: Any, device: Any = None) -> list[bytes]:
    """A batch in parts that meet, against the reference for the whole batch; returns all bits."""
    put, get = (device.array, device.host) if device else (np.ascontiguousarray, np.asarray)
    given, dy = arrays({"shape": shape, "mean": -3.0, "std": 2.0, "dtype": dtype, "seed": 12})
    found: list[Any] = [None] * parts

    def work(index: int, gather: Gather) -> None:
        rows = slice(index * shape[0] // parts, (index + 1) * shape[0] // parts)
        ours = {name: put(array[rows] if name == "x" else array.copy()) for name, array in given.items()}
        y, saved = impl.batch_norm(**ours, training=True, gather=gather)
        gradients = impl.batch_norm_backward(put(dy[rows]), ours["x"], ours["gamma"], saved)
        found[index] = [get(array) for array in (y, ours["running_mean"], ours["running_var"], *gradients)]

    backend = backend_of(put(dy))
    Lockstep(Serial(), backend, parts).run(work, lambda index: None)
    ys, means, variances, dxs, dgammas, dbetas = zip(*found, strict=True)
    exact = wide(given)
    y, saved = reference.batch_norm(**exact, training=True)
    gradients = reference.batch_norm_backward(dy.astype(np.float64), exact["x"], exact["gamma"], saved)
    scale, lost = scales(exact, dy, saved), 1.0 if dtype == np.float32 else 1 + 3 / 2
    assert_close(np.concatenate(ys), y, terms=PIECE, scale=scale["y"] * lost)
    for mean, variance in zip(means, variances, strict=True):
        assert_close(mean, exact["running_mean"], terms=PIECE)
        assert_close(variance, exact["running_var"], terms=PIECE)
    terms = max(PIECE, dy.size // shape[-1])
    assert_close(np.concatenate(dxs), gradients[0], terms=terms, scale=scale["dx"] * lost)
    assert_close(np.sum(dgammas, 0, dtype), gradients[1], terms=terms, scale=scale["dgamma"] * lost)
    assert_close(np.sum(dbetas, 0, dtype), gradients[2], terms=terms, scale=scale["dbeta"])
    return [array.tobytes() for each in found for array in each]


@pytest.mark.parametrize("impl", [batchnorm, reference])
@pytest.mark.parametrize(("shape", "parts"), [((4, 3), 4), ((600, 5), 2), ((6, 5, 7, 8), 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_that_meet_are_the_whole_batch(impl: Any, shape: tuple[int, ...], parts: int, dtype: Any) -> None:
    check_parts(impl, shape, parts, dtype)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 2), (2, 3, 1, 4)])
def test_reference_gradients(shape: tuple[int, ...], training: bool) -> None:
    case = {"shape": shape, "mean": 1.0, "std": 2.0, "dtype": np.float64, "seed": 5}
    given, dy = arrays(case)
    rng = np.random.default_rng(6)

    def output(**changed: np.ndarray) -> np.ndarray:
        fresh = {name: array.copy() for name, array in given.items()}  # the running statistics are written to
        y: np.ndarray = reference.batch_norm(**{**fresh, **changed}, training=training)[0]
        return y

    saved = reference.batch_norm(**{name: array.copy() for name, array in given.items()}, training=training)[1]
    dx, dgamma, dbeta = reference.batch_norm_backward(dy, given["x"], given["gamma"], saved)
    check_gradient(lambda v: output(x=v), dx, given["x"], dy, rng)
    check_gradient(lambda v: output(gamma=v), dgamma, given["gamma"], dy, rng)
    check_gradient(lambda v: output(beta=v), dbeta, given["beta"], dy, rng)


@pytest.mark.parametrize("kind", ["plain", "sorted", "drifting", "outliers"])
@pytest.mark.parametrize(("rows", "channels"), [(20_000, 8), (3000, 64), (500, 300)])
def test_a_large_mean_costs_no_digits(kind: str, rows: int, channels: int) -> None:
    x = large_means(kind, rows, channels, cpu._piece_rows(channels))
    exact = x.astype(np.float64)
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    running_mean, running_var = zero.copy(), one.copy()
    y, saved = batch_norm(x, one, zero, running_mean, running_var, training=True, momentum=1.0, eps=1e-5)
    mean, std = exact.mean(0), np.sqrt(exact.var(0) + 1e-5)
    # A single pass over x and x * x in float32 is off by more than 1 here.
    amplified = 16 if kind == "outliers" else 1
    assert_close((saved.mean - mean) / std, 0 * mean, terms=PIECE, dtype=np.float32, scale=1.0)
    assert_close(saved.inv_std * std, 0 * mean + 1, terms=PIECE, dtype=np.float32, scale=amplified)
    normalised = (exact - mean) / std
    assert_close(y, normalised, terms=PIECE, scale=amplified * float(np.abs(normalised).max()))
    assert_close(running_mean, mean)
    assert_close(running_var, exact.var(0, ddof=1), terms=PIECE, scale=amplified * float(exact.var(0).max()))


def test_a_large_mean_costs_the_gradient_no_digits() -> None:
    x = large_means("plain", 20_000, 8)
    one, zero = np.ones(8, np.float32), np.zeros(8, np.float32)
    dy, saved = batch_norm(x, one, zero, zero.copy(), one.copy(), training=True)
    dy += 1 + 0.5 * np.random.default_rng(11).standard_normal(dy.shape, dtype=np.float32)
    gradients = batch_norm_backward(dy, x, one, saved)  # dgamma and dbeta are large: dy goes with x, and has a mean
    wanted = reference.batch_norm_backward(dy.astype(np.float64), x.astype(np.float64), one, saved)
    largest = float(np.abs(dy).max())
    for actual, right, scale in zip(gradients, wanted, (3 * largest * saved.inv_std.max(), 2e4, 2e4), strict=True):
        assert_close(actual, right, terms=4, scale=float(scale))


def test_a_constant_channel_gives_beta() -> None:
    x = np.full((300, 4), 1234.567, np.float32)
    vectors = [np.full(4, value, np.float32) for value in (2.0, -3.5, 0.0, 1.0)]
    y, saved = batch_norm(x, *vectors, training=True)
    np.testing.assert_array_equal(y, np.full_like(x, -3.5))
    assert_close(saved.inv_std, np.full(4, 1e-5**-0.5))
    dx, dgamma, _ = batch_norm_backward(np.ones_like(x), x, vectors[0], saved)
    assert np.isfinite(dx).all() and not dgamma.any()


def test_nan_stays_in_its_channel() -> None:
    rng = np.random.default_rng(8)
    x, dy = rng.standard_normal((2, 700, 4)).astype(np.float32), np.ones((2, 700, 4), np.float32)
    x[1, 3, 2] = np.nan
    vectors = [np.full(4, value, np.float32) for value in (1.0, 0.0, 0.0, 1.0)]
    y, saved = batch_norm(x, *vectors, training=True)
    dx = batch_norm_backward(dy, x, vectors[0], saved)[0]
    for array in (y, dx):
        assert np.isnan(array[..., 2]).all() and np.isfinite(array[..., [0, 1, 3]]).all()
    assert np.isnan(vectors[2]).tolist() == np.isnan(vectors[3]).tolist() == [False, False, True, False]
    # In inference the gradient of x depends neither on x nor on the other rows.
    fresh = np.ones(4, np.float32)
    y, saved = batch_norm(x, fresh, fresh, fresh, fresh, training=False)
    assert np.isnan(y).sum() == 1
    dx, dgamma, dbeta = batch_norm_backward(dy, x, fresh, saved)
    assert np.isfinite(dx).all() and np.isfinite(dbeta).all() and np.isnan(dgamma).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("shape", [(8, 28, 28, 32), (37, 128), (3, 7, 7, 130), (128, 512)])
def test_bits_do_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    case = {"shape": shape, "mean": 1.0, "std": 2.0, "dtype": np.float32, "seed": 9}
    threads, results = numba.get_num_threads(), []
    for count in (1, threads):
        numba.set_num_threads(count)
        try:
            given, dy = arrays(case)
            y, saved = batch_norm(**given, training=True)
            gradients = batch_norm_backward(dy, given["x"], given["gamma"], saved)
            results.append((y, *saved[:2], given["running_mean"], given["running_var"], *gradients))
        finally:
            numba.set_num_threads(threads)
    for alone, many in zip(*results, strict=True):
        assert alone.tobytes() == many.tobytes()


@pytest.mark.parametrize("shape", [(16, 28, 28, 32), (16, 14, 14, 64), (64, 7, 7, 128), (128, 3, 3, 256), (128, 512)])
def test_network_shapes(shape: tuple[int, ...]) -> None:
    case = {"shape": shape, "mean": 0.2, "std": 1.5, "dtype": np.float32, "seed": 10}
    given, dy = arrays(case)
    exact = wide(given)
    y, saved = batch_norm(**given, training=True)
    expected, expected_saved = reference.batch_norm(**exact, training=True)
    scale = scales(exact, dy, expected_saved)
    assert_close(y, expected, terms=PIECE, scale=scale["y"])
    wanted = reference.batch_norm_backward(dy.astype(np.float64), exact["x"], exact["gamma"], expected_saved)
    gradients = batch_norm_backward(dy, given["x"], given["gamma"], saved)
    for name, actual, right in zip(("dx", "dgamma", "dbeta"), gradients, wanted, strict=True):
        terms = PIECE if name == "dx" else dy.size // shape[-1]
        assert_close(actual, right, terms=terms, scale=scale[name])


def vectors() -> list[np.ndarray]:
    return [np.ones(3, np.float32) for _ in range(4)]


X = np.ones((4, 5, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ShapeError, r"at least 2 dimensions, channels last, got shape \(3,\)", {"x": X[0, 0]}),
        (ShapeError, r"empty maps cannot be normalised: x \(4, 0, 3\)", {"x": X[:, :0]}),
        (ShapeError, r"more than one value per channel, got x \(1, 1, 3\)", {"x": X[:1, :1]}),
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
    given = dict(zip(NAMES, [X, *vectors()], strict=True))
    with pytest.raises(error, match=message):
        batch_norm(**{**given, "training": True, **change})
    assert (given["running_mean"] == 1).all() and (given["running_var"] == 1).all()


def test_one_value_per_channel_is_fine_in_inference_as_in_pytorch() -> None:
    assert batch_norm(X[:1, :1], *vectors(), training=False)[0].shape == (1, 1, 3)
    torch = torch_or_skip()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.functional.batch_norm(torch.ones(1, 3), torch.zeros(3), torch.ones(3), training=True)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ShapeError, r"dy must have shape \(4, 5, 3\), got \(4, 5, 1\)", {"dy": X[..., :1]}),
        (ShapeError, "gamma must have shape", {"gamma": np.ones(2, np.float32)}),
        (ShapeError, r"saved.mean must have shape \(3,\)", {"saved": BatchNormSaved(np.ones(2), np.ones(3), True)}),
        (ShapeError, r"saved.inv_std must have shape \(3,\)", {"saved": BatchNormSaved(np.ones(3), np.ones(4), True)}),
        (DTypeError, "dy is float64 but x is float32", {"dy": X.astype(np.float64)}),
    ],
)
def test_bad_arguments_of_backward_are_refused(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    saved = BatchNormSaved(np.ones(3), np.ones(3), True)
    with pytest.raises(error, match=message):
        batch_norm_backward(**{"dy": X, "x": X, "gamma": np.ones(3, np.float32), "saved": saved, **change})
