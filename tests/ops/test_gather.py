"""Gathering a batch: the reference to hand-made images and PyTorch, Numba to the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gpunet import backend
from gpunet.errors import ConfigError, DeviceError, DTypeError, ShapeError
from gpunet.ops import random
from gpunet.ops._numba import numba
from gpunet.ops.gather import gather_batch, gather_targets, reference
from gpunet.ops.random import reference as random_reference
from tests.support import assert_close, torch_or_skip

IMPLEMENTATIONS = pytest.mark.parametrize("gather", [gather_batch, reference.gather_batch])
N = 5


@st.composite
def data_sets(draw, features=True):
    """(images, labels, order), perhaps slices of larger arrays, and keyword arguments that fit them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64])))
    height, width, channels = (draw(st.integers(1, high)) for high in (7, 7, 3))
    contiguous = draw(st.booleans())
    larger = (N, height, width, channels) if contiguous else (2 * N, height + 1, 2 * width, channels + 1)
    kind = draw(st.sampled_from(["uint8", "uint8", "float32", "float64"])) if features else "uint8"
    if kind == "uint8":
        images = rng.integers(0, 256, larger, dtype=np.uint8)
    else:
        images = rng.standard_normal(larger).astype(kind)
    images = images[::2, 1:, ::2, :-1] if not contiguous else images
    if kind != "uint8" and draw(st.booleans()):
        images = images[:, 0, :, 0]
    # Read-only arrays are a type of their own to Numba; one dtype of them is enough, for the compile time.
    images.flags.writeable = dtype == np.float64 or draw(st.booleans())
    labels = rng.integers(0, 10, N).astype(draw(st.sampled_from([np.uint8, np.int64])))
    m = draw(st.integers(1, 2 * N))
    order = rng.integers(0, N, 2 * m).astype(draw(st.sampled_from([np.int64, np.int32])))[::2]
    size = draw(st.integers(1, m))
    start, step = draw(st.integers(0, m - size)), draw(st.integers(0, 2**32 - 1))
    first_row = draw(st.integers(0, m - size - start))
    if draw(st.booleans()):
        start, step = np.array([start]), np.array([step])
    arguments = {"start": start, "size": size, "seed": draw(st.integers(0, 2**64 - 1)), "step": step, "dtype": dtype}
    arguments["first_row"] = first_row
    if kind == "uint8":
        arguments |= {
            "flip": draw(st.booleans()),
            "shift": draw(st.integers(0, min(height, width) - 1)),
            "cutout": draw(st.integers(0, max(height, width))),
        }
        for name in ("scale", "offset"):
            shape = draw(st.sampled_from([None, (height, width, channels), (1, 1, channels)]))
            arguments[name] = None if shape is None else rng.standard_normal(shape).astype(dtype)
    return images, labels, order, arguments


def largest_term(arguments):
    """An upper bound of |pixel * scale| + |offset|."""
    scale, offset = arguments.get("scale"), arguments.get("offset")
    return 255 * (1 / 255 if scale is None else np.abs(scale).max()) + (0 if offset is None else np.abs(offset).max())


@settings(max_examples=300)
@given(data_sets())
def test_cpu_is_the_reference(data_set):
    images, labels, order, arguments = data_set
    before = images.copy(), labels.copy(), order.copy()
    x, y = gather_batch(images, labels, order, **arguments)
    expected, expected_labels = reference.gather_batch(images, labels, order, **arguments)
    assert x.dtype == arguments["dtype"] and y.dtype == np.int32
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(y, expected_labels)
    if images.dtype == np.uint8:
        assert_close(x, expected, scale=largest_term(arguments))
    else:
        np.testing.assert_array_equal(x, expected)
    for array, copy in zip((images, labels, order), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@settings(max_examples=200)
@given(data_sets(features=False))
def test_reference_is_pytorch(data_set):
    torch = torch_or_skip()
    images, labels, order, arguments = data_set
    x, y = reference.gather_batch(images, labels, order, **arguments)
    start, step = int(np.max(arguments["start"])), int(np.max(arguments["step"]))
    size, shift, cutout, first = (arguments[name] for name in ("size", "shift", "cutout", "first_row"))
    rows = torch.tensor(order[start + first : start + first + size].astype(np.int64))
    batch = torch.tensor(images.copy())[rows].permute(0, 3, 1, 2).to(torch.float64)
    _, _, height, width = batch.shape
    for r in range(size):
        w0, w1, w2, _ = random_reference.counter_words(arguments["seed"], 3, step, 2 * (first + r))
        v0, v1, _, _ = random_reference.counter_words(arguments["seed"], 3, step, 2 * (first + r) + 1)
        # moving down by d is a crop that starts d rows higher in the padded image
        top, left = shift - (w1 * (2 * shift + 1) // 2**32 - shift), shift - (w2 * (2 * shift + 1) // 2**32 - shift)
        padded = torch.nn.functional.pad(batch[r], (shift,) * 4)
        moved = padded[:, top : top + height, left : left + width]
        if arguments["flip"] and w0 >> 31:
            moved = moved.flip(2)
        row, column = (
            torch.arange(length) - length_word * length // 2**32 + cutout // 2
            for length, length_word in ((height, v0), (width, v1))
        )
        square = ((row >= 0) & (row < cutout))[:, None] & ((column >= 0) & (column < cutout))[None, :]
        batch[r] = moved.masked_fill(square, 0.0)
    scale, offset = arguments["scale"], arguments["offset"]
    expected = batch.permute(0, 2, 3, 1) * (1 / 255 if scale is None else torch.tensor(scale))
    expected = expected + (0 if offset is None else torch.tensor(offset))
    assert_close(x, expected.numpy(), scale=largest_term(arguments))
    np.testing.assert_array_equal(y, torch.tensor(labels.astype(np.int64))[rows].numpy())


IMAGES = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3, 1)
LABELS = np.array([7, 9])
ONE = {"scale": np.ones((1, 1, 1), np.float32)}


@IMPLEMENTATIONS
def test_rows_labels_and_range(gather):
    images = np.array([[0, 51], [255, 102]], np.uint8).reshape(2, 1, 2, 1)
    x, y = gather(images, LABELS, np.array([0, 1, 0]), start=1, size=2)
    assert x.shape == (2, 1, 2, 1) and x.dtype == np.float32
    assert_close(x.reshape(2, 2), np.array([[1.0, 0.4], [0.0, 0.2]]))
    assert x.max() == 1.0  # not a rounding error more
    assert y.tolist() == [9, 7] and y.dtype == np.int32


@IMPLEMENTATIONS
def test_scale_and_offset(gather):
    scale = np.array([2, 3, 4, 5, 6, 7], np.float32).reshape(2, 3, 1)
    x, _ = gather(
        IMAGES, LABELS, np.array([0]), start=0, size=1, scale=scale, offset=np.full((1, 1, 1), -1, np.float32)
    )
    assert x.reshape(-1).tolist() == [1.0, 5.0, 11.0, 19.0, 29.0, 41.0]


def with_words(monkeypatch, first, second):
    """Let the reference draw the words `first` from each first counter and `second` from each second one."""
    monkeypatch.setattr(
        random_reference, "counter_words", lambda seed, stream, step, index: ((*first, 0), (*second, 0, 0))[index % 2]
    )


@pytest.mark.parametrize(
    ("first", "second", "options", "expected"),
    [
        ((0x7FFFFFFF, 0, 0), (0, 0), {"flip": True}, [[1, 2, 3], [4, 5, 6]]),
        ((0x80000000, 0, 0), (0, 0), {"flip": True}, [[3, 2, 1], [6, 5, 4]]),
        # shift 1: words in the first, second and last third move by -1, 0 and 1; down, then right
        ((0, 0, 0x60000000), (0, 0), {"shift": 1}, [[4, 5, 6], [0, 0, 0]]),
        ((0, 0xFFFFFFFF, 0x60000000), (0, 0), {"shift": 1}, [[0, 0, 0], [1, 2, 3]]),
        ((0, 0x60000000, 0), (0, 0), {"shift": 1}, [[2, 3, 0], [5, 6, 0]]),
        ((0, 0x60000000, 0xFFFFFFFF), (0, 0), {"shift": 1}, [[0, 1, 2], [0, 4, 5]]),
        # first moved to the right, then mirrored
        ((0xFFFFFFFF, 0x60000000, 0xFFFFFFFF), (0, 0), {"flip": True, "shift": 1}, [[2, 1, 0], [5, 4, 0]]),
        # a square of side 2 around (1, 2) covers rows 0 and 1, columns 1 and 2; around (0, 0) only pixel (0, 0)
        ((0, 0, 0), (0x80000000, 0xB0000000), {"cutout": 2}, [[1, 0, 0], [4, 0, 0]]),
        ((0, 0, 0), (0, 0), {"cutout": 2}, [[0, 2, 3], [4, 5, 6]]),
        # one of side 3 around (0, 1) covers rows -1 to 1, columns 0 to 2; one of side 1 its centre
        ((0, 0, 0), (0, 0x60000000), {"cutout": 3}, [[0, 0, 0], [0, 0, 0]]),
        ((0, 0, 0), (0xFFFFFFFF, 0x60000000), {"cutout": 1}, [[1, 2, 3], [4, 0, 6]]),
        # the square stays where it is when the image is mirrored
        ((0x80000000, 0, 0), (0, 0), {"flip": True, "cutout": 1}, [[0, 2, 1], [6, 5, 4]]),
    ],
)
def test_augmentation_by_hand(monkeypatch, first, second, options, expected):
    with_words(monkeypatch, first, second)
    x, _ = reference.gather_batch(IMAGES, LABELS, np.array([0]), start=0, size=1, **ONE, **options)
    assert x[0, :, :, 0].tolist() == expected


def test_random_words_by_hand():
    # Row 1 of a batch takes counters 2 and 3 of the stream AUGMENT. A single pixel in a wide image shows where it went.
    images = np.zeros((1, 9, 9, 1), np.uint8)
    images[0, 4, 4, 0] = 1
    order = np.zeros(2, np.int64)
    x, _ = gather_batch(images, np.zeros(1, np.int64), order, start=0, size=2, shift=4, seed=11, step=12, **ONE)
    _, down, right, _ = random_reference.philox4x32(2, 0, 12, random.AUGMENT, 11, 0)
    assert np.argwhere(x[1, :, :, 0]).tolist() == [[down * 9 // 2**32, right * 9 // 2**32]]


def test_every_shift_flip_and_centre_is_equally_likely():
    n = 4000
    images = np.zeros((1, 5, 5, 1), np.uint8)
    images[0, 2, 2, 0] = 1
    x, _ = gather_batch(images, np.zeros(1, np.int64), np.zeros(n, np.int64), start=0, size=n, shift=2, seed=1, **ONE)
    assert (x.sum(axis=(1, 2, 3)) == 1).all()
    assert stats.chisquare(x.sum(axis=0).reshape(-1)).pvalue > 1e-4
    images[...] = 1
    x, _ = gather_batch(images, np.zeros(1, np.int64), np.zeros(n, np.int64), start=0, size=n, cutout=1, seed=2, **ONE)
    assert stats.chisquare((1 - x).sum(axis=0).reshape(-1)).pvalue > 1e-4
    images[0, :, :2] = 0
    x, _ = gather_batch(images, np.zeros(1, np.int64), np.zeros(n, np.int64), start=0, size=n, flip=True, seed=3, **ONE)
    assert stats.binomtest(int((x[:, 0, 0, 0] == 1).sum()), n).pvalue > 1e-4


def test_a_batch_starts_with_the_same_rows_whatever_its_size():
    images = np.random.default_rng(0).integers(0, 256, (9, 6, 6, 2), dtype=np.uint8)
    options = {"start": 2, "flip": True, "shift": 2, "cutout": 3, "seed": 4, "step": 5}
    large, _ = gather_batch(images, np.zeros(9, np.int64), np.arange(9), size=7, **options)
    small, _ = gather_batch(images, np.zeros(9, np.int64), np.arange(9), size=3, **options)
    np.testing.assert_array_equal(large[:3], small)


def test_arrays_are_read_when_it_runs():
    start, step = np.array([0]), np.array([2**32 + 1])  # the step counts modulo 2**32
    images = np.random.default_rng(1).integers(0, 256, (4, 5, 5, 1), dtype=np.uint8)
    arguments = images, np.arange(4), np.array([3, 2, 1, 0])
    for _ in range(2):
        x, y = gather_batch(*arguments, start=start, size=2, shift=2, step=step)
        expected, _ = gather_batch(*arguments, start=int(start[0]), size=2, shift=2, step=int(step[0]) - 2**32)
        np.testing.assert_array_equal(x, expected)
        assert y.tolist() == [3 - start[0], 2 - start[0]]
        start += 2
        step += 1


def test_any_number_of_threads_gives_the_same_bits():
    images = np.random.default_rng(2).integers(0, 256, (50, 9, 9, 1), dtype=np.uint8)
    options = {"start": 0, "size": 50, "flip": True, "shift": 3, "cutout": 4}
    x, _ = gather_batch(images, np.zeros(50, np.int64), np.arange(50), **options)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        alone, _ = gather_batch(images, np.zeros(50, np.int64), np.arange(50), **options)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(x, alone)


def test_a_nan_in_the_scale_reaches_empty_pixels():
    scale = np.full((1, 1, 1), np.nan, np.float32)
    x, _ = gather_batch(IMAGES, LABELS, np.array([0]), start=0, size=1, scale=scale, shift=1, cutout=2)
    assert np.isnan(x).all()


U8 = np.zeros((N, 4, 6, 2), np.uint8)
FEATURES = np.zeros((N, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (
            ShapeError,
            r"uint8 images must have 4 dimensions \(n, H, W, C\), got shape \(5, 3\)",
            {"images": np.zeros((N, 3), np.uint8)},
        ),
        (ShapeError, r"images have no pixels: \(H, W, C\) is \(0, 6, 2\)", {"images": U8[:, :0]}),
        (
            DTypeError,
            "images must be uint8, or features of float32 or float64, got int64",
            {"images": U8.astype(np.int64)},
        ),
        (ShapeError, r"features must have shape \(n, F\) or \(n, H, W, C\), got \(5,\)", {"images": np.zeros(N)}),
        (
            ConfigError,
            "only uint8 images can be augmented or scaled, got float32 features",
            {"images": FEATURES, "flip": True},
        ),
        (ConfigError, "only uint8 images can be augmented or scaled", {"images": FEATURES, "shift": 1}),
        (ConfigError, "only uint8 images can be augmented or scaled", {"images": FEATURES, "cutout": 1}),
        (
            ConfigError,
            "only uint8 images can be augmented or scaled",
            {"images": FEATURES, "scale": np.ones(3, np.float32)},
        ),
        (
            ConfigError,
            "only uint8 images can be augmented or scaled",
            {"images": FEATURES, "offset": np.ones(3, np.float32)},
        ),
        (ShapeError, r"labels must have shape \(5,\), got \(4,\)", {"labels": np.zeros(4, np.int64)}),
        (DTypeError, "labels must be integers in native byte order, got float64", {"labels": np.zeros(N)}),
        (ShapeError, r"order must have 1 dimensions \(m,\), got shape \(5, 1\)", {"order": np.zeros((N, 1), np.int64)}),
        (DTypeError, "order must be integers, got float64", {"order": np.zeros(N)}),
        (ConfigError, r"order must hold numbers in \[0, 5\), got 5", {"order": np.array([0, 5, 1])}),
        (ConfigError, r"order must hold numbers in \[0, 5\), got -1", {"order": np.array([0, -1, 1])}),
        (ConfigError, "size must be between 0 and 3, got 4", {"size": 4}),
        (ConfigError, "size must be between 0 and 3, got -1", {"size": -1}),
        (ConfigError, "start must be between 0 and 1, got 2", {"start": 2}),
        (ConfigError, "start must be between 0 and 1, got 2", {"start": np.array([2])}),
        (ConfigError, "start must be between 0 and 1, got -1", {"start": np.array([-1])}),
        (ShapeError, r"start must be an integer or a one-element array, got shape \(2,\)", {"start": np.arange(2)}),
        (DTypeError, "step must be an integer, got an array of float64", {"step": np.zeros(1)}),
        (ConfigError, "step must be between 0 and 4294967295, got -1", {"step": -1}),
        (ConfigError, "seed must be between 0 and", {"seed": 2**64}),
        (ConfigError, "shift must be between 0 and 3, got 4", {"shift": 4}),
        (ConfigError, "cutout must be between 0 and 6, got 7", {"cutout": 7}),
        (DTypeError, "dtype must be float32 or float64, got float16", {"dtype": np.float16}),
        (
            ShapeError,
            r"scale must have shape \(4, 6, 2\) or \(1, 1, 2\), got \(2,\)",
            {"scale": np.ones(2, np.float32)},
        ),
        (ShapeError, r"offset must have shape", {"offset": np.ones((1, 1, 1), np.float32)}),
        (DTypeError, "scale must be float32 like the batch, got float64", {"scale": np.ones((1, 1, 2))}),
    ],
)
def test_bad_arguments_are_refused(error, message, change):
    arguments = {"images": U8, "labels": np.zeros(N, np.int64), "order": np.arange(3), "start": 0, "size": 2}
    with pytest.raises(error, match=message):
        gather_batch(**{**arguments, **change})


def test_two_devices_are_refused(monkeypatch):
    class Elsewhere(np.ndarray):
        pass

    other = backend.CpuBackend()
    other.device = "elsewhere"
    monkeypatch.setitem(backend._array_types, Elsewhere, lambda array: other)
    for name, array in (("order", np.arange(3)), ("start", np.zeros(1, np.int64)), ("step", np.zeros(1, np.int64))):
        arguments = {"images": U8, "labels": np.zeros(N, np.int64), "order": np.arange(3), "start": 0, "size": 2}
        with pytest.raises(DeviceError, match="cpu and elsewhere"):
            gather_batch(**{**arguments, name: array.view(Elsewhere)})


TARGETS = np.array([[0.5, -1.0], [2.0, 1e-30], [7.0, 8.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gather", [gather_targets, reference.gather_targets])
def test_targets_by_hand(gather, dtype):
    for order, start in ((np.array([2, 0, 0, 1]), 1), (np.array([2, 0, 0, 1], np.int32)[::-1], np.array([0]))):
        expected = TARGETS.astype(dtype)[order[int(np.max(start)) :][:3]]
        y = gather(TARGETS.astype(dtype), order, start=start, size=3)
        assert y.dtype == dtype and y.flags.c_contiguous
        np.testing.assert_array_equal(y, expected)
        spread = np.repeat(TARGETS, 2, axis=1).astype(dtype)[:, ::2]  # not contiguous
        np.testing.assert_array_equal(gather(spread, order, start=start, size=3), expected)


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ShapeError, r"targets must have 2 dimensions \(n, K\), got shape \(3,\)", {"targets": np.zeros(3)}),
        (DTypeError, "targets must be float32 or float64, got int64", {"targets": np.zeros((3, 1), np.int64)}),
        (DTypeError, "order must be integers, got float64", {"order": np.zeros(4)}),
        (ConfigError, r"order must hold numbers in \[0, 3\), got 3", {"order": np.array([0, 3])}),
        (ConfigError, "size must be between 0 and 3, got 4", {"size": 4}),
        (ConfigError, "start must be between 0 and 1, got 2", {"start": 2}),
        (ConfigError, "start must be between 0 and 1, got -1", {"start": np.array([-1])}),
    ],
)
def test_bad_targets_are_refused(error, message, change):
    arguments = {"targets": TARGETS, "order": np.arange(3), "start": 0, "size": 2}
    with pytest.raises(error, match=message):
        gather_targets(**{**arguments, **change})
