"""Scaling against scikit-learn's StandardScaler and whole-number sums."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from gpunet.data.scaling import CHANNEL_FLOOR, PIXEL_FLOOR, Scaling, scaling_of
from gpunet.errors import ConfigError, DataError
from tests.support import assert_close


def images(n: int = 700, shape: tuple[int, int, int] = (5, 4, 3)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, rng.integers(100, 257, shape), (n, *shape), np.uint8)


def apply(scaling: Scaling, x: np.ndarray) -> np.ndarray:
    return x * scaling.scale.astype(np.float64) + scaling.offset


def test_none() -> None:
    scaling = scaling_of(images(), "none")
    assert scaling.scale.shape == scaling.offset.shape == (1, 1, 3)
    assert (scaling.scale == np.float32(1 / 255)).all() and (scaling.offset == 0).all()


@pytest.mark.parametrize("n", [2, 512, 700, 1025])
def test_pixel(n: int) -> None:
    x = images(n)
    scaling = scaling_of(x, "pixel")
    assert scaling.scale.shape == scaling.offset.shape == (5, 4, 3)
    flat = x.reshape(n, -1) / 255.0
    oracle = StandardScaler().fit(flat)
    if n == 2:  # the oracle has no floor
        oracle.scale_ = np.maximum(oracle.scale_, PIXEL_FLOOR)
    expected = oracle.transform(flat).reshape(x.shape)
    assert_close(apply(scaling, x), expected, dtype=np.float32, scale=float(np.abs(expected).max()) + 10)


def test_channel() -> None:
    x = images()
    scaling = scaling_of(x, "channel")
    assert scaling.scale.shape == scaling.offset.shape == (1, 1, 3)
    expected = StandardScaler().fit_transform(x.reshape(-1, 3) / 255.0).reshape(x.shape)
    assert_close(apply(scaling, x), expected, dtype=np.float32)


@pytest.mark.parametrize(("standardize", "floor"), [("pixel", PIXEL_FLOOR), ("channel", CHANNEL_FLOOR)])
@pytest.mark.parametrize("value", [0, 51, 255])
def test_constant_pixels(standardize: str, floor: float, value: int) -> None:
    x = np.full((10, 3, 2, 1), value, np.uint8)
    scaling = scaling_of(x, standardize)
    assert_close(scaling.scale, np.full_like(scaling.scale, 1 / (255 * floor)))
    assert np.abs(apply(scaling, x)).max() <= 4 * np.finfo(np.float32).eps * value / 255 / floor


def test_rare_pixels_stay_bounded() -> None:
    x = np.zeros((1000, 1, 2, 1), np.uint8)
    x[0, 0, 0] = 1  # deviates by 0.00012
    scaling = scaling_of(x, "pixel")
    assert abs(apply(scaling, np.full((1, 2, 1), 255, np.uint8))).max() <= 1 / PIXEL_FLOOR + 1e-5


def test_small_deviation_beside_a_large_mean_is_exact() -> None:
    # 254 or 255, one in 1000: mean of squares minus square of the mean would lose it in float32
    x = np.full((1000, 8, 8, 1), 255, np.uint8)
    x[::4] = 235
    n, total, squares = x.size, int(x.astype(int).sum()), int((x.astype(int) ** 2).sum())
    variance = Fraction(squares, n) - Fraction(total, n) ** 2
    scaling = scaling_of(x, "channel")
    assert_close(scaling.scale.ravel(), np.array([float(variance) ** -0.5]), dtype=np.float32)
    assert_close(scaling.offset.ravel(), np.array([-total / n / float(variance) ** 0.5]), dtype=np.float32)


def test_survives_as_plain_arrays() -> None:
    scaling = scaling_of(images(), "pixel")
    arrays = {name: array.copy() for name, array in scaling.to_arrays().items()}
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    again = Scaling.from_arrays(arrays)
    np.testing.assert_array_equal(again.scale, scaling.scale)
    np.testing.assert_array_equal(again.offset, scaling.offset)


ONES = np.ones((1, 1, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"scale": ONES}, "the scaling lacks offset"),
        ({}, "the scaling lacks scale and offset"),
        ({"scale": ONES.astype(float), "offset": ONES}, "scale must be finite float32"),
        ({"scale": ONES, "offset": ONES[0]}, r"offset must be finite float32 \(H, W, C\), got float32 \(1, 3\)"),
        ({"scale": ONES, "offset": ONES * np.float32(np.nan)}, "offset must be finite"),
        ({"scale": ONES, "offset": ONES[..., :1]}, r"scale has shape \(1, 1, 3\), but offset has \(1, 1, 1\)"),
    ],
)
def test_bad_arrays(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Scaling.from_arrays(arrays)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="standardize must be one of none, channel, pixel; got 'both'"):
        scaling_of(images(), "both")
    for bad in (images().astype(np.float64), images()[0], images()[:0]):
        with pytest.raises(DataError, match=r"expected images uint8 or float32 \(n, H, W, C\), got"):
            scaling_of(bad, "pixel")
