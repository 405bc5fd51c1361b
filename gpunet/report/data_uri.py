"""Small images as data URIs, for self-contained pages."""

from __future__ import annotations

import base64
import io

import numpy as np

from gpunet.report.canvas import load_matplotlib


def picture_uri(pixels: np.ndarray) -> str:
    """`pixels`, uint8 (H, W) or (H, W, C) with C = 1, 3 or 4, as the data URI of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(flat)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def coloured_uri(values: np.ndarray, colours: str, low: float, high: float) -> str:
    """`values` (H, W) on the matplotlib colour map `colours` from `low` to `high`; transparent where not finite."""
    load_matplotlib()
    import matplotlib

    spread = high - low or 1.0
    shares = (np.asarray(values, np.float64) - low) / spread
    pixels = matplotlib.colormaps[colours](np.ma.masked_invalid(shares), bytes=True)
    return picture_uri(pixels)


def filter_uri(weight: np.ndarray, limit: float) -> str:
    """A filter (KH, KW, C): three channels as colours around mid-grey, otherwise the channel mean, red to blue."""
    if weight.shape[2] == 3:
        shares = np.clip(0.5 + np.nan_to_num(weight) / (2 * limit), 0, 1)
        return picture_uri(np.round(255 * shares).astype(np.uint8))
    return coloured_uri(weight.mean(axis=2), "RdBu", -limit, limit)
