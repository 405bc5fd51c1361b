"""Pictures read for prediction: every kind of file, sizes, colours, and what is no picture."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpunet.data import load, read_image
from gpunet.data.files import find
from gpunet.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 100, (28, 28), np.uint8)
COLOUR = RNG.integers(0, 256, (28, 28, 3), np.uint8)


def save(tmp_path: Path, array: np.ndarray, suffix: str = ".png", **options: Any) -> Path:
    path = tmp_path / f"image{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".pgm", ".tif", ".npy"])
def test_grey_image_of_the_right_size_stays(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path, GREY, suffix))
    assert image.dtype == np.uint8 and image.shape == (28, 28, 1) and image.flags.c_contiguous and image.flags.writeable
    np.testing.assert_array_equal(image[..., 0], GREY)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif", ".npy"])
def test_colour_image_of_the_right_size_stays(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path, COLOUR, suffix), (28, 28, 3)), COLOUR)


def test_jpeg_and_webp(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(28) * 3, np.arange(28)).astype(np.uint8)
    for suffix, options in ((".jpg", {"quality": 95}), (".webp", {"quality": 95})):
        image = read_image(save(tmp_path, smooth, suffix, **options))[..., 0]
        assert np.abs(image.astype(int) - smooth).max() <= 6  # of 108 grey levels


def test_kind_is_told_by_content(tmp_path: Path) -> None:
    path = save(tmp_path, GREY)
    for name in ("image.jpg", "image.npy", "image"):
        np.testing.assert_array_equal(read_image(path.rename(tmp_path / name))[..., 0], GREY)
        path = tmp_path / name


def test_colour_to_grey_by_luma(tmp_path: Path) -> None:
    red, green, blue = COLOUR.astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601-7, section 2.5.1
    image = read_image(save(tmp_path, COLOUR), invert="never")[..., 0]
    assert np.abs(image - luma).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_grey_to_colour(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path, GREY, suffix), (28, 28, 3))
    np.testing.assert_array_equal(image, np.stack([GREY] * 3, axis=-1))


def test_grey_array_with_a_channel(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path, GREY[..., None], ".npy"))[..., 0], GREY)


def test_palette_bilevel_and_16_bits(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).quantize(256).save(tmp_path / "palette.png")
    expected = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png", (28, 28, 3)), expected)

    Image.fromarray(GREY > 50).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bilevel.png")[..., 0], np.where(GREY > 50, 255, 0))

    wide = GREY.astype(np.uint16) * 257 + RNG.integers(-100, 101, GREY.shape) * (GREY > 0)
    Image.fromarray(wide.astype(np.uint16)).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(read_image(tmp_path / "wide.png")[..., 0], GREY)


def test_transparent_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[10:20, 10:20] = (0, 0, 0, 255)
    pixels[10:20, 10:15, 3] = 51  # one fifth black
    path = save(tmp_path, pixels)
    image = read_image(path, invert="never")[..., 0]
    assert (image[:10] == 255).all() and (image[10:20, 15:20] == 0).all() and (image[10:20, 10:15] == 204).all()
    np.testing.assert_array_equal(read_image(path)[..., 0], 255 - image)  # black on nothing, seen as by Fashion-MNIST


def test_orientation_of_a_camera(tmp_path: Path) -> None:
    upright = np.zeros((28, 28), np.uint8)
    upright[:5] = 90
    lying = Image.fromarray(np.rot90(upright))
    exif = lying.getexif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view"
    lying.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], upright)


class TestSize:
    def test_shrinking_averages_areas(self, tmp_path: Path) -> None:
        large = RNG.integers(0, 100, (28 * 5, 28 * 5), np.uint8)
        expected = large.reshape(28, 5, 28, 5).mean(axis=(1, 3))
        image = read_image(save(tmp_path, large))[..., 0]
        assert np.abs(image - expected).max() <= 1  # rows, then columns are rounded

    def test_growing_keeps_edges_and_range(self, tmp_path: Path) -> None:
        small = np.array([[0, 0], [0, 80]], np.uint8)
        image = read_image(save(tmp_path, small))[..., 0]
        assert image.max() == 80 and image[-1, -1] == 80 and image[0, 0] == 0
        assert (np.diff(image[-1].astype(int)) >= 0).all()

    @pytest.mark.parametrize(
        ("size", "rows", "columns"),
        [
            ((56, 28), slice(0, 28), slice(7, 21)),
            ((28, 56), slice(7, 21), slice(0, 28)),
            ((10, 7), slice(0, 28), slice(4, 24)),  # 28 x 19.6
            ((1000, 1), slice(0, 28), slice(13, 14)),
        ],
    )
    def test_aspect_ratio_is_kept_on_black(
        self, tmp_path: Path, size: tuple[int, int], rows: slice, columns: slice
    ) -> None:
        image = read_image(save(tmp_path, np.full(size, 100, np.uint8)))[..., 0]
        expected = np.zeros((28, 28), np.uint8)
        expected[rows, columns] = 100
        np.testing.assert_array_equal(image, expected)

    def test_model_of_another_shape(self, tmp_path: Path) -> None:
        image = read_image(save(tmp_path, np.full((20, 20, 3), 100, np.uint8)), (10, 30, 3))
        expected = np.zeros((10, 30, 3), np.uint8)
        expected[:, 10:20] = 100
        np.testing.assert_array_equal(image, expected)


class TestInvert:
    def test_dark_on_white(self, tmp_path: Path) -> None:
        image = read_image(save(tmp_path, 255 - GREY))[..., 0]
        np.testing.assert_array_equal(image, GREY)

    def test_before_padding(self, tmp_path: Path) -> None:
        image = read_image(save(tmp_path, np.full((28, 14), 255, np.uint8)))
        assert (image == 0).all()  # a white border around white is no object

    @pytest.mark.parametrize(("frame", "inverted"), [(127, False), (128, True)])
    def test_border_decides(self, tmp_path: Path, frame: int, inverted: bool) -> None:
        picture = np.full((28, 28), frame, np.uint8)
        picture[1:-1, 1:-1] = 255 * (frame < 128)
        image = read_image(save(tmp_path, picture))[..., 0]
        np.testing.assert_array_equal(image, 255 - picture if inverted else picture)

    def test_one_pixel(self, tmp_path: Path) -> None:
        assert (read_image(save(tmp_path, np.array([[250]], np.uint8))) == 5).all()

    def test_always_and_never(self, tmp_path: Path) -> None:
        path = save(tmp_path, 255 - GREY)
        np.testing.assert_array_equal(read_image(path, invert="never")[..., 0], 255 - GREY)
        np.testing.assert_array_equal(read_image(path, invert="always")[..., 0], GREY)
        path = save(tmp_path, COLOUR)
        np.testing.assert_array_equal(read_image(path, (28, 28, 3), invert="always"), 255 - COLOUR)

    def test_colour_models_are_left_alone(self, tmp_path: Path) -> None:
        white = np.full((28, 28, 3), 255, np.uint8)
        np.testing.assert_array_equal(read_image(save(tmp_path, white), (28, 28, 3)), white)

    @pytest.mark.data
    def test_fashion_mnist_is_never_inverted_and_its_negative_always(self, tmp_path: Path) -> None:
        folder = find()
        if folder is None:
            pytest.skip("Fashion-MNIST is not on this machine: set GPUNET_DATA or call gpunet.data.fetch()")
        _, test = load(folder)
        brightest = test.images[np.argsort(test.images.mean(axis=(1, 2, 3)))[-50:], ..., 0]
        for picture in brightest:
            np.testing.assert_array_equal(read_image(save(tmp_path, picture))[..., 0], picture)
            np.testing.assert_array_equal(read_image(save(tmp_path, 255 - picture))[..., 0], picture)


class TestNpy:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats(self, tmp_path: Path, dtype: type) -> None:
        path = save(tmp_path, (GREY / 255).astype(dtype), ".npy")
        np.testing.assert_array_equal(read_image(path)[..., 0], GREY)

    def test_floats_between_grey_levels_are_rounded(self, tmp_path: Path) -> None:
        assert (read_image(save(tmp_path, np.full((28, 28), 0.25), ".npy")) == 64).all()

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros(5, np.uint8), r"expected one image \(H, W\) or \(H, W, C\), got an array of shape \(5,\)"),
            (np.zeros((1, 28, 28, 1), np.uint8), r"got an array of shape \(1, 28, 28, 1\)"),
            (np.zeros((0, 28), np.uint8), r"got an array of shape \(0, 28\)"),
            (
                np.zeros((3, 28, 28), np.uint8),
                r"expected 1 or 3 channels in the last axis, got an array of shape \(3, 28, 28\)",
            ),
            (np.full((28, 28), np.nan), r"the pixels: 784 pixel\(s\) are NaN"),
            (np.full((28, 28), 128.0), "the pixels are float64 between 128 and 128"),
            (np.zeros((28, 28), np.int32), "the pixels are int32, expected uint8"),
            (np.array([[None]]), "not a readable NPY file of a plain array: Object arrays cannot be loaded"),
        ],
    )
    def test_refused(self, tmp_path: Path, array: np.ndarray, message: str) -> None:
        path = save(tmp_path, array, ".npy")
        with pytest.raises(DataError, match=message) as caught:
            read_image(path)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("keep", [7, 50, 500])
    def test_truncated(self, tmp_path: Path, keep: int) -> None:
        path = save(tmp_path, GREY, ".npy")
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match="not a readable NPY file"):
            read_image(path)


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and caught.value.exit_code == 3


def test_missing_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.png", "cannot read .*: No such file or directory")
    refused(tmp_path, "cannot read .*: Is a directory")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_unknown_kinds(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.png").write_bytes(content)
    refused(
        tmp_path / "file.png", "is not an image of a known format: expected PNG, JPEG, BMP, GIF, PPM, TIFF, WEBP or NPY"
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".tif", ".webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path, RNG.integers(0, 256, (60, 60, 3), np.uint8), suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "damaged|not an image of a known format")


def test_png_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = save(tmp_path, GREY)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    refused(path, "damaged")


def test_picture_that_would_fill_the_memory(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 60_000):  # Pillow warns of the first and refuses the second
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        path = tmp_path / "bomb.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        refused(path, "is too large: Image size")


def test_32_bits(tmp_path: Path) -> None:
    refused(save(tmp_path, GREY.astype(np.float32), ".tif"), "has 32-bit pixels, expected 8 or 16 bits")
    refused(save(tmp_path, GREY.astype(np.int32), ".tif"), "has 32-bit pixels")


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 2), (0, 28, 1), (28, 28, 1, 1)])
def test_shapes_that_no_picture_has(tmp_path: Path, shape: Any) -> None:
    with pytest.raises(ConfigError, match=r"models that take \(H, W, 1\) or \(H, W, 3\), not "):
        read_image(save(tmp_path, GREY), shape)


def test_unknown_invert(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="invert must be one of auto, always, never; got 'yes'"):
        read_image(save(tmp_path, GREY), invert="yes")
