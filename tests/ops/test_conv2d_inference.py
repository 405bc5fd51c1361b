"""A convolution block in inference: the reference against PyTorch, the CPU against the reference, and its bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.ops._simd import PANEL_BYTES
from gpunet.ops.conv2d.cpu import _within_windows
from gpunet.ops.conv2d.cpu.winograd_tiles import tile_of
from gpunet.ops.conv2d_inference import conv2d_inference, reference
from gpunet.ops.geometry import Conv2dGeometry
from tests.ops.test_conv2d import SUMS, cases, choose_always
from tests.ops.test_winograd import amplification_of
from tests.support import assert_close, sum_scale, torch_or_skip

PANEL = PANEL_BYTES // np.dtype(np.float32).itemsize
Case = dict[str, Any]
FOLLOWING = st.fixed_dictionaries(
    {"bias": st.booleans(), "norm": st.booleans(), "relu": st.booleans(), "max_pool": st.booleans()}
)
LARGEST_SCALE = 2 / 0.5**0.5
"""Of batch norm: the largest gamma by the smallest standard deviation."""


def arguments(case: Case, dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays, half of gamma negative and none contiguous, and the options."""
    rng = np.random.default_rng(case["seed"])
    channels, given = case["weight"][3], case["following"]

    def vector(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, 2 * channels).astype(dtype)[::2]

    gamma = vector(0.5, 2) * rng.choice([-1, 1], channels).astype(dtype)
    norm = [gamma, vector(-1, 1), vector(-1, 1), vector(0.5, 2)]
    arrays = {
        "x": rng.standard_normal((*case["x"][:3], 2 * case["x"][3])).astype(dtype)[..., ::2],
        "weight": rng.standard_normal((*case["weight"][:3], 2 * channels)).astype(dtype)[..., ::2],
        "bias": vector(-1, 1) if given["bias"] else None,
        "norm": norm if given["norm"] else None,
    }
    options = {**case["options"], "eps": 1e-3, "relu": given["relu"], "max_pool": given["max_pool"]}
    return arrays, options


def wide(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [part.astype(np.float64) for part in value]
        if isinstance(value, list)
        else None
        if value is None
        else value.astype(np.float64)
        for name, value in arrays.items()
    }


def check(case: Case, y: np.ndarray, amplification: float = 1.0) -> None:
    """`y`, on the host, against the reference in float64."""
    arrays, options = arguments(case, case["dtype"])
    wanted = reference.conv2d_inference(**wide(arrays), **options)
    terms = int(np.prod(case["weight"][:3])) + 3
    assert y.dtype == case["dtype"]
    scale = amplification * LARGEST_SCALE * sum_scale(wanted, terms)
    assert_close(y, wanted, terms=terms, scale=scale)


def fits(case: Case) -> bool:
    """Whether there is a window to pool, if it is wanted."""
    g = Conv2dGeometry.of(case["x"], case["weight"], **case["options"])
    return not case["following"]["max_pool"] or min(g.out_height, g.out_width) >= 2


@pytest.mark.parametrize("algorithm", [None, *SUMS])
@settings(max_examples=40)
@given(case=cases(max_batch=20), following=FOLLOWING)
def test_cpu_matches_reference(algorithm: str | None, case: Case, following: dict[str, bool]) -> None:
    case = {**case, "following": following}
    assume(fits(case))
    arrays, options = arguments(case, case["dtype"])
    with pytest.MonkeyPatch.context() as patch:
        if algorithm is not None:
            choose_always(algorithm, patch)
        check(case, conv2d_inference(**arrays, **options))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (6, 7), (7, 9), (14, 14), (29, 30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_pool", [True, False])
def test_winograd_and_large_maps(size: tuple[int, int], dtype: Any, max_pool: bool) -> None:
    """Tasks of several images, of one, and maps of which not even one stays in cache; whole panels of channels."""
    following = {"bias": True, "norm": True, "relu": True, "max_pool": max_pool and min(size) > 1}
    case = {"x": (23, *size, PANEL), "weight": (3, 3, PANEL, 2 * PANEL), "options": {"padding": "same"}}
    case |= {"dtype": dtype, "seed": 3, "following": following}
    arrays, options = arguments(case, dtype)
    g = Conv2dGeometry.of(case["x"], case["weight"], padding="same")
    computed = _within_windows(g, 2 if following["max_pool"] else 1)[0]
    check(case, conv2d_inference(**arrays, **options), amplification_of(tile_of(computed)))


@pytest.mark.parametrize("size", [3, 7, 14])
def test_an_image_has_the_same_bits_wherever_it_is(size: int) -> None:
    """In batches from 32 images on, at any position, with any number of threads."""
    following = {"bias": False, "norm": True, "relu": True, "max_pool": True}
    case = {"x": (97, size, size, PANEL), "weight": (3, 3, PANEL, PANEL), "options": {"padding": "same"}, "seed": 5}
    arrays, options = arguments({**case, "following": following}, np.float32)
    x, rest = arrays.pop("x"), arrays
    whole = conv2d_inference(x, **rest, **options)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(conv2d_inference(x, **rest, **options), whole)
    finally:
        numba.set_num_threads(threads)
    for first in (1, 5, 64):
        np.testing.assert_array_equal(conv2d_inference(x[first : first + 33], **rest, **options), whole[first:][:33])


def test_nan_is_the_maximum_and_passes_relu() -> None:
    x = np.zeros((1, 5, 4, 1), np.float32)
    x[0, 3, 2, 0] = np.nan
    for channels in (1, PANEL):
        weight = np.ones((1, 1, 1, channels), np.float32)
        y = conv2d_inference(x, weight, relu=True, max_pool=True)
        assert y.shape == (1, 2, 2, channels)
        assert np.isnan(y[0, 1, 1]).all() and np.isnan(y).sum() == channels


@settings(max_examples=30)
@given(case=cases(symmetric=True), following=FOLLOWING)
def test_reference_is_pytorchs(case: Case, following: dict[str, bool]) -> None:
    torch = torch_or_skip()
    case = {**case, "following": following}
    assume(fits(case))
    arrays, options = arguments(case, np.float64)
    given = case["options"]

    def tensor(array: np.ndarray | None, *axes: int) -> Any:
        if array is None:
            return None
        return torch.from_numpy(np.ascontiguousarray(array.transpose(axes) if axes else array))

    y = torch.nn.functional.conv2d(
        tensor(arrays["x"], 0, 3, 1, 2),
        tensor(arrays["weight"], 3, 2, 0, 1),
        tensor(arrays["bias"]),
        given["stride"],
        given["padding"],
        given["dilation"],
        given["groups"],
    )
    if arrays["norm"] is not None:
        gamma, beta, mean, var = map(tensor, arrays["norm"])
        y = torch.nn.functional.batch_norm(y, mean, var, gamma, beta, eps=options["eps"])
    y = torch.relu(y) if options["relu"] else y
    y = torch.nn.functional.max_pool2d(y, 2) if options["max_pool"] else y
    terms = int(np.prod(case["weight"][:3])) + 3
    found = reference.conv2d_inference(**arrays, **options)
    expected = y.permute(0, 2, 3, 1).numpy()
    assert_close(found, expected, terms=terms, scale=LARGEST_SCALE * sum_scale(expected, terms))


def test_bad_arguments() -> None:
    x, weight = np.zeros((1, 3, 3, 2), np.float32), np.zeros((3, 3, 2, 4), np.float32)
    four = np.ones((4, 4), np.float32)
    with pytest.raises(ShapeError, match="running_mean must have shape"):
        conv2d_inference(x, weight, norm=[four[0], four[0], four[0, :3], four[0]])
    with pytest.raises(ConfigError, match=r"norm must be the four arrays gamma, .*, got 3"):
        conv2d_inference(x, weight, norm=four[:3])
    with pytest.raises(DTypeError, match="beta is float64 but x is float32"):
        conv2d_inference(x, weight, norm=[four[0], four[0].astype(np.float64), four[0], four[0]])
    with pytest.raises(ConfigError, match="eps must be"):
        conv2d_inference(x, weight, eps=0.0)
    with pytest.raises(ShapeError, match="a pooling window of 2x2"):
        conv2d_inference(x, weight, max_pool=True)
