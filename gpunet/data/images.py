"""Reading image files of any size and common formats as inputs for a model."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.pixels import to_uint8
from gpunet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

INVERT = ("auto", "always", "never")

# Not all of Pillow's formats: some of its readers start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_NPY_MAGIC = b"\x93NUMPY"


def read_image(
    path: str | os.PathLike[str], shape: tuple[int, int, int] = (28, 28, 1), *, invert: str = "auto"
) -> np.ndarray:
    """Read one image as input for a model, uint8 `shape` = (H, W, C) with C = 1 (greyscale) or 3 (RGB).

    path: PNG, JPEG, BMP, GIF (the first frame), PPM, TIFF or WebP; or an NPY array (H, W) or (H, W, C), uint8 or
        floats in [0, 1]. It may have any size: the image is resized to fit (area averaging to shrink, bilinear to
        enlarge), keeping its aspect ratio, and centred on black. Transparent areas become white. For a greyscale
        model, colours are converted by ITU-R BT.601 luma.
    invert: Fashion-MNIST shows bright clothes on black, photographs often dark ones on white. ``auto`` inverts, for
        greyscale models, images whose border pixels are brighter than mid-grey on average. (This is true of no
        Fashion-MNIST image, and of the negative of each.)

    Raises:
        DataError: the file is missing, unreadable, damaged, of an unknown format, or has NaNs or the wrong rank.
        ConfigError: `shape` or `invert` is not one of the above.
    """
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise ConfigError(f"images can be read for models that take (H, W, 1) or (H, W, 3), not {tuple(shape)}")
    if invert not in INVERT:
        raise ConfigError(f"invert must be one of {', '.join(INVERT)}; got {invert!r}")
    from PIL import Image

    source = Path(path)
    try:
        with source.open("rb") as file:
            start = file.read(len(_NPY_MAGIC))
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror or error}") from error
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    picture = _from_npy(source, mode) if start == _NPY_MAGIC else _from_picture(source, mode)
    pixels = np.asarray(picture)
    if invert == "always" or (invert == "auto" and channels == 1 and _bright_border(pixels)):
        picture = Image.fromarray(255 - pixels)
    return _fit(picture, width, height).reshape(shape)


def _from_picture(path: Path, mode: str) -> Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as file:
                picture: Image.Image = ImageOps.exif_transpose(file)
        if picture.mode in ("I", "F"):
            raise DataError(f"{path} has 32-bit pixels, expected 8 or 16 bits")
        if picture.mode.startswith("I;16"):
            wide = np.asarray(picture).astype(np.uint32)
            picture = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
        if picture.has_transparency_data:
            clear = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        return picture.convert(mode)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image of a known format: expected {', '.join(_FORMATS)} or NPY") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is too large: {error}") from error
    except Exception as error:  # Pillow's readers may raise anything on damaged files
        raise DataError(f"{path} cannot be read and seems to be damaged: {error}") from error


def _from_npy(path: Path, mode: str) -> Image.Image:
    from PIL import Image

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable NPY file of a plain array: {error}") from error
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
