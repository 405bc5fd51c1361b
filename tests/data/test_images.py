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


def png(width: int, height: int, depth: int, values: list[int], clear: list[int] | None = None) -> bytes:
    """A PNG file, written by its specification (RFC 2083): grey, or RGB if `clear` has three values, row by row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour = 2 if clear is not None and len(clear) == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = b""
    for start in range(0, len(values), len(values) // height or 1):
        bits = "".join(f"{value:0{depth}b}" for value in values[start : start + len(values) // height])
        rows += b"\0" + int(bits.ljust(-len(bits) // 8 * -8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    transparent = b"" if clear is None else chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + data


@pytest.mark.parametrize("kind", ["binary", "text"])
@pytest.mark.parametrize("largest", [300, 1023, 4095, 65535])
def test_16_bit_pgm(tmp_path: Path, kind: str, largest: int) -> None:
    values = np.linspace(0, largest, 28 * 28).round().astype(int).reshape(28, 28)
    path = tmp_path / "a.pgm"
    if kind == "binary":
        path.write_bytes(b"P5 28 28 %d\n" % largest + values.astype(">u2").tobytes())
    else:
        path.write_text(f"P2 28 28 {largest}\n" + " ".join(map(str, values.ravel())))
    image = read_image(path, invert="never")[..., 0]
    assert np.abs(image - values * (255 / largest)).max() <= 0.51  # rounded to 16 bits, then to 8


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_value_of_a_grey_png(tmp_path: Path, depth: int) -> None:
    """A dark thing in a field of one transparent value, whatever that is: it stays, on white."""
    largest = 2**depth - 1
    for clear in {largest, 1, largest // 2 + 1, largest // 3}:
        thing = 0 if clear else largest  # black, or white in a field of a transparent black
        values = np.full((28, 28), clear)
        values[10:20, 8:14] = thing
        path = tmp_path / "a.png"
        path.write_bytes(png(28, 28, depth, values.ravel().tolist(), [clear]))
        expected = np.full((28, 28), 255 if thing == 0 else 0)
        expected[10:20, 8:14] = 255 * (thing > 0)
        np.testing.assert_array_equal(read_image(path, invert="never")[..., 0], expected)


def test_transparent_value_of_a_16_bit_colour_png(tmp_path: Path) -> None:
    clear = [0x1234, 0xABCD, 0x00FF]
    values = np.tile(clear, (28, 28, 1))
    values[5:10, 5:10] = (0x3434, 0xCDCD, 0xFFFF)  # its high bytes are the low ones of the transparent colour
    path = tmp_path / "a.png"
    path.write_bytes(png(28, 28, 16, values.ravel().tolist(), clear))
    image = read_image(path, (28, 28, 3), invert="never")
    expected = np.zeros((28, 28, 3))
    expected[5:10, 5:10] = (0x34, 0xCD, 0xFF)  # luma 165: bright
    np.testing.assert_array_equal(image, expected)


def on_nothing(*values: int, alpha: int = 255) -> np.ndarray:
    """RGBA pixels of a thing with stripes of these grey levels, on transparent ones of no meaning."""
    pixels = np.full((28, 28, 4), 77, np.uint8)
    pixels[..., 3] = 0
    for place, value in enumerate(values):
        pixels[10:20, 10 + place] = (value, value, value, alpha)
    return pixels


def test_dark_things_on_nothing_are_on_white(tmp_path: Path) -> None:
    pixels = on_nothing(0, 0, 0, 0, 0, 0, 0)
    pixels[10:20, 10:13, 3] = 51  # one fifth black
    path = save(tmp_path, pixels)
    image = read_image(path, invert="never")[..., 0]
    assert (image[:10] == 255).all() and (image[10:20, 13:17] == 0).all() and (image[10:20, 10:13] == 204).all()
    np.testing.assert_array_equal(read_image(path)[..., 0], 255 - image)  # black on nothing, seen as by Fashion-MNIST


def test_bright_things_on_nothing_are_on_black(tmp_path: Path) -> None:
    path = save(tmp_path, on_nothing(255, 200, 255))
    expected = np.zeros((28, 28), np.uint8)
    expected[10:20, 10:13] = (255, 200, 255)
    for invert in ("auto", "never"):  # as in Fashion-MNIST
        np.testing.assert_array_equal(read_image(path, invert=invert)[..., 0], expected)
    np.testing.assert_array_equal(read_image(path, (28, 28, 3)), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize(
    ("values", "background"),
    [((127,), 255), ((128,), 0), ((255, 0), 255), ((255, 0, 1), 255), ((255, 254, 0), 0), ((100, 155), 255)],
)
def test_mean_luma_decides_what_is_behind(tmp_path: Path, values: tuple[int, ...], background: int) -> None:
    image = read_image(save(tmp_path, on_nothing(*values)), invert="never")
    assert (image[:10] == background).all() and image[15, 10 : 10 + len(values), 0].tolist() == list(values)


def test_opacity_weighs_the_luma(tmp_path: Path) -> None:
    pixels = on_nothing(255, 255, 0)
    pixels[10:20, 10:12, 3] = 10  # two bright stripes that hardly show, and a dark one
    assert (read_image(save(tmp_path, pixels), invert="never")[:10] == 255).all()


def test_transparent_entry_of_a_palette(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.full((28, 28), 3, np.uint8), "P")
    indexed.putpalette([0, 0, 0, 250, 250, 250, 9, 9, 9, 77, 77, 77])
    indexed.paste(1, (4, 4, 9, 9))
    indexed.save(tmp_path / "a.png", transparency=3)
    expected = np.zeros((28, 28))
    expected[4:9, 4:9] = 250
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], expected)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((9, 9), np.uint8),
        np.full((5, 40, 3), (1, 2, 3), np.uint8),
        on_nothing(),
        on_nothing(90, alpha=0),
        np.full((28, 28, 4), 128, np.uint8),
    ],
    ids=["black", "one colour", "nothing", "something hidden", "evenly translucent"],
)
@pytest.mark.parametrize("shape", [(28, 28, 1), (28, 28, 3)])
def test_nothing_to_see_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pixels: np.ndarray, shape: tuple[int, int, int]
) -> None:
    path = save(tmp_path, pixels)
    read_image(path, shape)
    assert caplog.messages == [f"{path}: all pixels have the same value, so there is nothing on it to classify"]


def test_something_to_see_is_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = np.zeros((28, 28, 3), np.uint8)
    one[3, 4, 2] = 255
    for pixels in (one, GREY, on_nothing(255), on_nothing(0)):
        read_image(save(tmp_path, pixels))
        read_image(save(tmp_path, pixels), (28, 28, 3))
    assert caplog.messages == []


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
            (np.array([[None]]), "not a readable array: Object arrays cannot be loaded"),
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
        with pytest.raises(DataError, match=r"not a readable array|is truncated: its header declares"):
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
    path = tmp_path / "bomb.png"
    for width, height in ((8192, 8193), (10_000, 10_000)):
        path.write_bytes(png(width, height, 8, []))
        refused(
            path, f"is too large: {width} x {height} are {width * height} pixels, expected at most 67108864: shrink"
        )
    path.write_bytes(png(60_000, 60_000, 8, []))
    refused(path, "is too large: Image size")
    path.write_bytes(png(8192, 8192, 8, []))
    refused(path, "damaged")  # it has no pixels, but might have had


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
