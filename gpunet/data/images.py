"""Reading image files of any size and common formats as inputs for a model."""

from __future__ import annotations

import io
import logging
import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpunet.data.npy import MAGIC, read_npy
from gpunet.data.pixels import to_uint8
from gpunet.errors import ConfigError, DataError
from gpunet.files import open_regular

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger("gpunet")

INVERT = ("auto", "always", "never")

# Not all of Pillow's formats: some of its readers start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")

_ORIENTATION = 0x0112  # an EXIF tag (CIPA DC-008, "Orientation")

LARGEST_PICTURE = 2**26
"""Pixels of an image file, 8192 x 8192: more than most cameras take, and at most 0.7 GB while one is read."""


def read_image(
    path: str | os.PathLike[str], shape: tuple[int, int, int] = (28, 28, 1), *, invert: str = "auto"
) -> np.ndarray:
    """Read one image as input for a model, uint8 `shape` = (H, W, C) with C = 1 (greyscale) or 3 (RGB).

    Args:
        path: PNG, JPEG, BMP, GIF (the first frame), PPM, TIFF or WebP of up to 2**26 pixels; or an NPY array (H, W) or
            (H, W, C), uint8 or floats in [0, 1]. The image is resized to fit (area averaging to shrink, bilinear to
            enlarge), keeping its aspect ratio, and centred on black. For a greyscale model, colours are converted by
            ITU-R BT.601 luma. Transparent areas become what contrasts: black around something bright (if the luma of
            the other pixels, weighted by their opacity, is above mid-grey on average), else white.
        invert: Fashion-MNIST shows bright clothes on black, photographs often dark ones on white. ``auto`` inverts, for
            greyscale models, images whose border pixels are brighter than mid-grey on average. (This is true of no
            Fashion-MNIST image, and of the negative of each.)

    An image whose pixels all have one value is read, with a warning.

    Raises:
        DataError: the file is missing, unreadable, damaged, too large, of an unknown format, or has NaNs or the wrong
            rank.
        ConfigError: `shape` or `invert` is not one of the above.

    >>> np.save("dot.npy", np.uint8([[255, 255, 255], [255, 0, 255], [255, 255, 255]]))
    >>> gn.data.read_image("dot.npy", (3, 3, 1))[:, :, 0]  # dark on white, so it is inverted
    array([[  0,   0,   0],
           [  0, 255,   0],
           [  0,   0,   0]], dtype=uint8)
    """
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise ConfigError(f"images can be read for models that take (H, W, 1) or (H, W, 3), not {tuple(shape)}")
    if invert not in INVERT:
        raise ConfigError(f"invert must be one of {', '.join(INVERT)}; got {invert!r}")
    from PIL import Image

    source = Path(path)
    try:
        with open_regular(source) as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    picture = _from_npy(source, mode) if start == MAGIC else _from_picture(source, mode)
    pixels = np.asarray(picture)
    if (pixels == pixels[0, 0]).all():
        logger.warning("%s: all pixels have the same value, so there is nothing on it to classify", source)
    if invert == "always" or (invert == "auto" and channels == 1 and _bright_border(pixels)):
        picture = Image.fromarray(255 - pixels)
    return _fit(picture, width, height).reshape(shape)


def read_picture(path: Path, shape: tuple[int, int, int], content: bytes | None = None) -> np.ndarray:
    """A picture of a training set, as :func:`read_image` reads it without inverting it; from its `content`, if given.

    Raises:
        DataError: as :func:`read_image`.
    """
    height, width, channels = shape
    return _fit(_from_picture(path, "L" if channels == 1 else "RGB", content), width, height).reshape(shape)


def picture_header(path: Path, content: bytes | None = None) -> tuple[int, int, bool]:
    """Height and width of a picture as it is seen, and whether it is in colour; only the start of the file is read.

    content: that of the file, if it is in no file of its own; `path` then names it in messages.

    Raises:
        DataError: the file cannot be read, or not as a picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        opened: IO[bytes] = open_regular(path) if content is None else io.BytesIO(content)
        with warnings.catch_warnings(), opened as file:
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as picture:
                width, height = picture.size
                if picture.getexif().get(_ORIENTATION, 1) >= 5:  # a quarter turn
                    width, height = height, width
                return height, width, picture.mode not in ("1", "L", "LA") and not picture.mode.startswith(("I", "F"))
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image of a known format: expected {', '.join(_FORMATS)}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # Pillow's readers may raise anything on damaged files
        raise DataError(f"{path} cannot be read and seems to be damaged: {error}") from error


def _from_picture(path: Path, mode: str, content: bytes | None = None) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of sizes that are checked here
            with Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS) as picture:
                width, height = picture.size
                if width * height > LARGEST_PICTURE:
                    raise DataError(
                        f"{path} is too large: {width} x {height} are {width * height} pixels, expected at most "
                        f"{LARGEST_PICTURE}: shrink it first"
                    )
                clear = _transparent_value(picture)
                ImageOps.exif_transpose(picture, in_place=True)
                return _in_8_bits(picture, clear, path, mode)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image of a known format: expected {', '.join(_FORMATS)} or NPY") from error
    except Image.DecompressionBombError as error:  # so large that Pillow does not open it
        raise DataError(f"{path} is too large: {error}") from error
    except Exception as error:  # Pillow's readers may raise anything on damaged files
        raise DataError(f"{path} cannot be read and seems to be damaged: {error}") from error


def _transparent_value(picture: Image.Image) -> Any:
    """What ``info["transparency"]`` should be: the transparent value in the range of Pillow's pixels.

    Pillow scales the pixels of a PNG file to 8 bits, but not the value that its tRNS chunk declares transparent.
    """
    clear = picture.info.get("transparency")
    raw = picture.tile[0][3] if picture.format == "PNG" and picture.tile else None  # type: ignore[attr-defined]
    if raw in ("L;2", "L;4") and isinstance(clear, int):
        return clear * (85 if raw == "L;2" else 17)
    if raw == "RGB;16B" and isinstance(clear, tuple):
        return tuple(value >> 8 for value in clear)
    return clear


def _in_8_bits(picture: Image.Image, clear: Any, path: Path, mode: str) -> Image.Image:
    """`picture` in `mode`, on a background that contrasts where it is transparent, as at the value `clear`."""
    from PIL import Image

    if clear is not None:
        picture.info["transparency"] = clear
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        wide = np.asarray(picture).astype(np.uint32)
        alpha = None if clear is None else Image.fromarray((wide != clear).astype(np.uint8) * np.uint8(255))
        wide *= 255
        wide += 32767
        wide //= 65535
        picture = Image.fromarray(wide.astype(np.uint8))
        return picture.convert(mode) if alpha is None else _on_contrast(picture, alpha, mode)
    if picture.mode in ("I", "F"):
        raise DataError(f"{path} has 32-bit pixels, expected 8 or 16 bits")
    if picture.has_transparency_data:
        with_alpha = picture if picture.mode in ("RGBA", "LA") else picture.convert("RGBA")
        return _on_contrast(with_alpha, with_alpha.getchannel("A"), mode)
    return picture.convert(mode)


def _on_contrast(picture: Image.Image, alpha: Image.Image, mode: str) -> Image.Image:
    """`picture` in `mode`, on black if what is opaque in it is bright, else on white."""
    from PIL import Image

    luma, weight = np.asarray(picture.convert("L")), np.asarray(alpha)
    total = int(weight.sum(dtype=np.int64))
    bright = 2 * int(np.einsum("ij,ij->", luma, weight, dtype=np.int64)) > 255 * total
    canvas = Image.new(mode, picture.size, "black" if bright else "white")
    canvas.paste(picture.convert(mode), mask=alpha)
    return canvas


def _from_npy(path: Path, mode: str) -> Image.Image:
    from PIL import Image

    try:
        with open_regular(path) as file:
            array = read_npy(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if array.ndim not in (2, 3) or array.size == 0:
        raise DataError(f"{path}: expected one image (H, W) or (H, W, C), got an array of shape {array.shape}")
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        raise DataError(f"{path}: expected 1 or 3 channels in the last axis, got an array of shape {array.shape}")
    pixels = to_uint8(array, f"{path}: the pixels", exact=False)
    picture = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    return picture.convert(mode)


def _bright_border(pixels: np.ndarray) -> bool:
    """Whether the border pixels of a greyscale image (H, W) are brighter than mid-grey on average."""
    border = np.concatenate((pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]))
    return float(border.mean()) > 127.5


def _fit(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """`picture` resized to fit into (height, width) and centred on black."""
    from PIL import Image

    factor = min(width / picture.width, height / picture.height)
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    if size != picture.size:
        method = Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR
        picture = picture.resize((size[0], size[1]), method)
    canvas = Image.new(picture.mode, (width, height))
    canvas.paste(picture, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.array(canvas)
