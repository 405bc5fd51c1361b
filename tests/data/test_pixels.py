"""Conversion of pixels to uint8."""

from __future__ import annotations

import numpy as np
import pytest

from gpunet.data.pixels import to_uint8
from gpunet.errors import DataError

ALL = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)


def test_uint8_stays() -> None:
    assert to_uint8(ALL, "x", exact=True) is ALL
    strided = to_uint8(ALL[:, ::2, ::3], "x", exact=True)
    assert strided.flags.c_contiguous and strided.tolist() == ALL[:, ::2, ::3].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble])
@pytest.mark.parametrize("way", ["divided", "multiplied", "through float32"])
def test_every_grey_level_survives(dtype: object, way: str) -> None:
    if way == "divided":
        floats = ALL.astype(dtype) / np.array(255, dtype)
    elif way == "multiplied":
        floats = ALL.astype(dtype) * (np.array(1, dtype) / np.array(255, dtype))
    else:
        floats = (ALL / np.float32(255)).astype(dtype)
    result = to_uint8(np.minimum(floats, 1).astype(dtype), "x", exact=True)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, ALL)


def test_more_images_than_a_block() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5000, 1, 2), np.uint8)
    np.testing.assert_array_equal(to_uint8(images / 255, "x", exact=True), images)
    late = images / 255
    late[-1, 0, 0] = np.nan
    with pytest.raises(DataError, match=r"1 pixel\(s\) are NaN"):
        to_uint8(late, "x", exact=True)


def test_rounded_where_asked() -> None:
    floats = np.array([[0.0, 0.499 / 255, 0.501 / 255, 1.0]])
    assert to_uint8(floats, "x", exact=False).tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.int64), "^the picture are int64, expected uint8, or floats in"),
        (np.zeros((2, 2), bool), "are bool"),
        (np.zeros((2, 2), complex), "are complex128"),
        (np.array([["a"]]), "are <U1"),
        (np.array([[0.0, np.nan], [np.inf, 1.0]]), r"2 pixel\(s\) are NaN or infinite"),
        (np.array([[0.0, 255.0]]), r"are float64 between 0 and 255, expected \[0, 1\]; .* must be uint8"),
        (np.array([[-0.5, 0.5]], np.float32), "are float32 between -0.5 and 0.5"),
    ],
)
def test_what_is_refused(array: np.ndarray, exact: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_uint8(array, "the picture", exact=exact)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lossy_floats_are_refused(dtype: type) -> None:
    with pytest.raises(DataError, match=r"not multiples of 1/255 \(off by up to 0.002"):
        to_uint8(np.array([[0.0, 0.5]], dtype), "x", exact=True)


def test_standardised_floats_are_refused() -> None:
    floats = np.array([[10 / 255 + 1e-6]])
    with pytest.raises(DataError, match="off by up to 1e-06"):
        to_uint8(floats, "x", exact=True)
