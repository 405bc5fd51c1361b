"""A network's first block: the reference against PyTorch, the CPU against the reference, in parts, its bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.backend import Gather, backend_of
from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops.conv2d import conv2d
from gpunet.ops.conv2d_batchnorm_pool import (
    ConvBatchNormMaxPoolSaved,
    conv2d_batch_norm_max_pool,
    conv2d_batch_norm_max_pool_backward,
    reference,
)
from gpunet.ops.geometry import Conv2dGeometry, Pool2dGeometry
from gpunet.parallel import Serial
from gpunet.parallel.lockstep import Lockstep
from tests.support import assert_close, torch_or_skip

Arrays = dict[str, np.ndarray]
Case = dict[str, Any]
NAMES = "x", "weight", "gamma", "beta", "running_mean", "running_var"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Kernels of up to 31 inputs, channels that fill panels or not, inputs with a mean."""
    channels = draw(st.integers(1, 3))
    kernel = draw(st.sampled_from([(3, 3), (5, 5), (1, 1), (2, 3), (7, 4), (1, 5), (3, 1)]))
    assume(kernel[0] * kernel[1] * channels <= 31)
    side = st.tuples(st.integers(0, 3), st.integers(0, 3))
    case = {
        "x": (draw(st.integers(1, 40)), draw(st.integers(2, 12)), draw(st.integers(2, 20)), channels),
        "weight": (*kernel, channels, draw(st.sampled_from([1, 7, 16, 32, 40, 64]))),
        "padding": draw(st.one_of(st.sampled_from(["same", "valid"]), st.tuples(side, side))),
        "options": {
            "momentum": draw(st.sampled_from([0.0, 0.1, 1.0])),
            "eps": draw(st.sampled_from([1e-5, 0.5])),
            "relu": draw(st.booleans()),
        },
        "mean": draw(st.sampled_from([0.0, 0.5, -30.0])),
        "dtype": draw(st.sampled_from([np.float32, np.float64])),
        "seed": draw(st.integers(0, 10_000)),
    }
    assume(fits(case))
    return case


def fits(case: Case) -> bool:
    """Whether the kernel fits the map and a window what it gives, with more than one position."""
    try:
        g = Conv2dGeometry.of(case["x"], case["weight"], padding=case["padding"])
        Pool2dGeometry.of(g.y_shape, 2)
    except ShapeError:
        return False
    return True


def arrays(case: Case) -> tuple[Arrays, np.ndarray]:
    """The six arrays of the forward pass, half of gamma negative, and dy; none is contiguous."""
    rng = np.random.default_rng(case["seed"])
    channels = case["weight"][3]
    values = {
        "x": rng.normal(case["mean"], 1, (*case["x"][:3], 2 * case["x"][3])),
        "weight": rng.standard_normal((*case["weight"][:3], 2 * channels)),
        "gamma": rng.uniform(0.5, 2, 2 * channels) * rng.choice([-1, 1], 2 * channels),
        "beta": rng.standard_normal(2 * channels),
        "running_mean": rng.standard_normal(2 * channels),
        "running_var": rng.uniform(0.5, 2, 2 * channels),
    }
    g = Conv2dGeometry.of(case["x"], case["weight"], padding=case["padding"])
    y_shape = Pool2dGeometry.of(g.y_shape, 2).y_shape
    dy = rng.standard_normal((*y_shape[:3], 2 * channels)).astype(case["dtype"])[..., ::2]
    return {name: value.astype(case["dtype"])[..., ::2] for name, value in values.items()}, dy


def wide(given: Arrays) -> Arrays:
    return {name: array.astype(np.float64) for name, array in given.items()}


def lost(case: Case) -> float:
    """What a mean far from zero costs in float64, in which sums of squares of float32 numbers have digits to spare."""
    return 1.0 if case["dtype"] == np.float32 else 1 + float(case["mean"]) ** 2


def sizes(case: Case, exact: Arrays, saved: ConvBatchNormMaxPoolSaved) -> np.ndarray:
    """By channel, how large the terms of a normalised value are: sums of |input| |weight|, in standard deviations."""
    maps = conv2d(np.abs(exact["x"]), np.abs(exact["weight"]), padding=case["padding"])
    found: np.ndarray = np.abs(exact["gamma"]) * saved.inv_std * maps.max((0, 1, 2)) + np.abs(exact["beta"])
    return found


def check(case: Case, results: tuple[np.ndarray, ConvBatchNormMaxPoolSaved], moved: Arrays) -> None:
    """The forward pass's results and running statistics, on the host, against the reference in float64."""
    given, _ = arrays(case)
    exact = wide(given)
    expected, wanted = reference.conv2d_batch_norm_max_pool(**exact, padding=case["padding"], **case["options"])
    y, saved = results
    terms = int(np.prod(case["weight"][:3])) + 3
    if case["dtype"] == np.float64:  # as precise as the sums over all positions; float32 is not
        terms += wanted.kept[..., 0].size
    scale = float(sizes(case, exact, wanted).max()) * lost(case)
    assert y.dtype == case["dtype"] and saved.argmax.dtype == np.uint8
    assert saved.mean.dtype == saved.inv_std.dtype == np.float64
    assert_close(y, expected, terms=terms, scale=scale)
    assert_close(
        (saved.mean - wanted.mean) * wanted.inv_std, 0 * wanted.mean, terms=terms, dtype=case["dtype"], scale=scale
    )
    assert_close(saved.inv_std / wanted.inv_std, 0 * wanted.mean + 1, terms=terms, dtype=case["dtype"], scale=scale)
    # Two values may be nearer than their rounding: then either is the maximum. Tap 4 is ReLU's zero.
    maps = (wanted.kept - wanted.mean) * wanted.inv_std * exact["gamma"] + exact["beta"]
    n, height, width, channels = y.shape
    windows = maps[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    taps = np.pad(windows.reshape(n, height, width, channels, 4), [(0, 0)] * 4 + [(0, 1)])
    chosen = np.take_along_axis(taps, saved.argmax[..., None].astype(int), -1)[..., 0]
    assert ((y <= 0) == (saved.argmax == 4)).all() if case["options"]["relu"] else (saved.argmax < 4).all()
    assert_close(chosen, expected, terms=terms, dtype=case["dtype"], scale=scale)
    for name in ("running_mean", "running_var"):
        spread = (float(np.abs(wanted.mean).max() + (wanted.inv_std**-2).max()) + 1) * lost(case)
        assert_close(moved[name], exact[name], terms=terms, scale=spread)


def check_backward(case: Case, saved: ConvBatchNormMaxPoolSaved, gradients: tuple[np.ndarray, ...]) -> None:
    """The gradients for what the forward pass saved, on the host, against the reference in float64."""
    given, dy = arrays(case)
    exact = wide(given)
    forward = reference.conv2d_batch_norm_max_pool(**exact, padding=case["padding"], **case["options"])[1]
    forward = forward._replace(argmax=saved.argmax)
    wanted = reference.conv2d_batch_norm_max_pool_backward(
        dy.astype(np.float64), exact["x"], exact["weight"], exact["gamma"], forward, padding=case["padding"]
    )
    terms, total = dy[..., 0].size, float(np.abs(dy).sum((0, 1, 2)).max())
    largest = float(np.abs(exact["x"]).max())
    spread = float((np.abs(forward.kept - forward.mean) * forward.inv_std).max()) * lost(case)
    normalised = float((np.abs(exact["gamma"]) * forward.inv_std).max())
    scale = {
        "dweight": normalised * largest * total * spread,
        "dgamma": total * float(sizes(case, exact, forward).max()) * lost(case),
        "dbeta": total,
    }
    for (name, size), actual, right in zip(scale.items(), gradients, wanted, strict=True):
        assert actual.dtype == case["dtype"], name
        assert_close(actual, right, terms=terms, scale=size / np.sqrt(terms))


@settings(max_examples=200)
@given(case=cases())
def test_cpu_matches_reference(case: Case) -> None:
    given, dy = arrays(case)
    kept, kept_dy = {name: array.copy() for name, array in given.items()}, dy.copy()
    y, saved = conv2d_batch_norm_max_pool(**given, padding=case["padding"], **case["options"])
    check(case, (y, saved), given)
    strided = saved._replace(argmax=np.repeat(saved.argmax, 2, 3)[..., ::2])
    parameters = given["x"], given["weight"], given["gamma"]
    gradients = conv2d_batch_norm_max_pool_backward(dy, *parameters, strided, padding=case["padding"])
    check_backward(case, saved, gradients)
    for name in ("x", "weight", "gamma", "beta"):
        np.testing.assert_array_equal(given[name], kept[name])
    np.testing.assert_array_equal(dy, kept_dy)


@settings(max_examples=30)
@given(case=cases())
def test_reference_matches_pytorch(case: Case) -> None:
    torch = torch_or_skip()
    given, dy = arrays({**case, "dtype": np.float64})
    g, options = Conv2dGeometry.of(case["x"], case["weight"], padding=case["padding"]), case["options"]
    y, saved = reference.conv2d_batch_norm_max_pool(
        **{name: array.copy() for name, array in given.items()}, padding=case["padding"], **options
    )
    gradients = reference.conv2d_batch_norm_max_pool_backward(
        dy, given["x"], given["weight"], given["gamma"], saved, padding=case["padding"]
    )
    x, weight, gamma, beta = (torch.tensor(np.ascontiguousarray(given[name])) for name in NAMES[:4])
    for tensor in (weight, gamma, beta):
        tensor.requires_grad_(True)
    top, bottom, left, right = g.padding
    functional = torch.nn.functional
    padded = functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    maps = functional.conv2d(padded, weight.permute(3, 2, 0, 1).contiguous())
    normalised = functional.batch_norm(maps, None, None, gamma, beta, True, 0.1, options["eps"])
    pooled = functional.max_pool2d(normalised, 2)
    pooled = (pooled.relu() if options["relu"] else pooled).permute(0, 2, 3, 1)
    np.testing.assert_allclose(y, pooled.detach().numpy(), atol=1e-9)
    pooled.backward(torch.tensor(np.ascontiguousarray(dy)))
    for ours, tensor in zip(gradients, (weight, gamma, beta), strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), atol=1e-8 * max(1, np.abs(ours).max()))


def check_parts(case: Case, parts: int, device: Any = None) -> None:
    """A batch in parts that meet, against the reference for the whole batch."""
    put, get = (device.array, device.host) if device else (np.ascontiguousarray, np.asarray)
    given, dy = arrays(case)
    found: list[Any] = [None] * parts

    def work(index: int, gather: Gather) -> None:
        rows = slice(index * len(dy) // parts, (index + 1) * len(dy) // parts)
        ours = {name: put(array[rows] if name == "x" else array.copy()) for name, array in given.items()}
        y, saved = conv2d_batch_norm_max_pool(**ours, padding=case["padding"], **case["options"], gather=gather)
        parameters = ours["x"], ours["weight"], ours["gamma"]
        gradients = conv2d_batch_norm_max_pool_backward(put(dy[rows]), *parameters, saved, padding=case["padding"])
        moved = {name: get(ours[name]) for name in ("running_mean", "running_var")}
        found[index] = [get(y), get(saved.mean), get(saved.inv_std), get(saved.argmax), moved, *map(get, gradients)]

    Lockstep(Serial(), backend_of(put(dy)), parts).run(work, lambda index: None)
    ys, means, inv_stds, argmaxes, moved, *gradients = zip(*found, strict=True)
    for each in range(parts):
        nothing = np.empty(0)
        saved = ConvBatchNormMaxPoolSaved(means[each], inv_stds[each], np.concatenate(argmaxes), nothing)
        check(case, (np.concatenate(ys), saved), moved[each])
    check_backward(case, saved, tuple(sum(parts) for parts in gradients))


MET: Case = {
    "x": (6, 8, 7, 2),
    "weight": (3, 3, 2, 32),
    "padding": "same",
    "options": {"momentum": 0.1, "eps": 1e-5, "relu": True},
    "mean": 0.5,
    "dtype": np.float32,
    "seed": 1,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_that_meet_are_the_whole_batch(dtype: Any) -> None:
    check_parts({**MET, "dtype": dtype}, 3)


def test_a_mean_far_from_zero() -> None:
    """The variance of what is a thousand times smaller than its mean has an error of a convolution's rounding alone."""
    check_parts({**MET, "x": (30, 14, 14, 1), "weight": (3, 3, 1, 32), "padding": "valid", "mean": 1000.0}, 1)
    given, _ = arrays({**MET, "x": (30, 14, 14, 1), "weight": (3, 3, 1, 32), "padding": "valid", "mean": 1000.0})
    wanted = reference.conv2d_batch_norm_max_pool(**wide(given), padding="valid", **MET["options"])[1]
    found = conv2d_batch_norm_max_pool(**given, padding="valid", **MET["options"])[1]
    np.testing.assert_allclose(found.inv_std, wanted.inv_std, rtol=1e-8)


def test_bits_do_not_depend_on_threads() -> None:
    case = {**MET, "x": (70, 28, 28, 1), "weight": (3, 3, 1, 32)}
    threads, results = numba.get_num_threads(), []
    for count in {1, threads}:
        given, dy = arrays(case)
        numba.set_num_threads(count)
        try:
            y, saved = conv2d_batch_norm_max_pool(**given, padding="same", **case["options"])
            parameters = given["x"], given["weight"], given["gamma"]
            gradients = conv2d_batch_norm_max_pool_backward(dy, *parameters, saved, padding="same")
        finally:
            numba.set_num_threads(threads)
        results.append([y, saved.mean, saved.inv_std, saved.argmax, *gradients])
    for first, second in zip(results[0], results[-1], strict=True):
        assert first.tobytes() == second.tobytes()


def test_a_nan_is_not_lost() -> None:
    given, _ = arrays(MET)
    given["x"][2, 3, 3, 1] = np.nan
    y, saved = conv2d_batch_norm_max_pool(**given, padding="same", **MET["options"])
    assert np.isnan(y).all() and np.isnan(saved.mean).all() and np.isnan(given["running_var"]).all()


def test_gradients_are_written_where_they_are_wanted() -> None:
    given, dy = arrays(MET)
    _, saved = conv2d_batch_norm_max_pool(**given, padding="same", **MET["options"])
    parameters = given["x"], given["weight"], given["gamma"]
    new = conv2d_batch_norm_max_pool_backward(dy, *parameters, saved, padding="same")
    out = tuple(np.full(array.shape, np.nan, array.dtype) for array in new)
    found = conv2d_batch_norm_max_pool_backward(dy, *parameters, saved, padding="same", out=out)
    for array, expected, place in zip(found, new, out, strict=True):
        assert array is place
        np.testing.assert_array_equal(array, expected)


def test_bad_arguments() -> None:
    given, dy = arrays(MET)

    def call(**changed: Any) -> Any:
        return conv2d_batch_norm_max_pool(**{**given, "padding": "same", **changed})

    with pytest.raises(ShapeError, match="a patch may have 31 inputs, got 50"):
        call(weight=np.zeros((5, 5, 2, 32), np.float32))
    with pytest.raises(ShapeError, match="gamma"):
        call(gamma=np.ones(3, np.float32))
    with pytest.raises(DTypeError, match="float"):
        call(weight=given["weight"].astype(np.float64))
    with pytest.raises(ConfigError, match="momentum"):
        call(momentum=2)
    with pytest.raises(ShapeError, match="more than one value"):
        conv2d_batch_norm_max_pool(**{**given, "x": given["x"][:0]}, padding="same")
    with pytest.raises(ShapeError):  # smaller than a window
        call(x=given["x"][:, :1], padding=((1, 1), (1, 1)))
    _, saved = call()
    parameters = given["x"], given["weight"], given["gamma"]
    with pytest.raises(ShapeError, match="dy"):
        conv2d_batch_norm_max_pool_backward(dy[:, :1], *parameters, saved, padding="same")
    with pytest.raises(DTypeError, match="argmax"):
        wrong = saved._replace(argmax=saved.argmax.astype(np.int64))
        conv2d_batch_norm_max_pool_backward(dy, *parameters, wrong, padding="same")
