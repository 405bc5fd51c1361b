"""What all figures share: their look, and a page that is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PathLike = str | os.PathLike[str]

# Okabe & Ito, "Color Universal Design" (2008).
BLUE, ORANGE, GREEN, VERMILLION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

# M. Petroff, "Accessible Color Sequences for Data Visualization" (2021), ten colours.
TEN = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)

DPI = 150


@contextlib.contextmanager
def page(path: PathLike, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches to draw on, which is then saved as a PNG file at `path`."""
    from matplotlib import style
    from matplotlib.figure import Figure

    # The reader's own settings must not change the pictures; names of classes are no formulas.
    settings: list[str | dict[str, Any]] = ["default", {"text.parse_math": False, "font.size": 9}]
    with atomic_write(path) as temporary, style.context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


class Sheet:
    """Square cells in rows and columns for pictures: a single axes, much quicker than one for each picture.

    headroom: room above each cell for a title, as a share of its side.
    """

    GAP = 0.07

    def __init__(self, figure: Figure, rows: int, columns: int, *, headroom: float = 0.0) -> None:
        self.axes = figure.subplots()
        self.axes.set_axis_off()
        self.headroom = headroom
        self.axes.set_xlim(0, columns + (columns - 1) * self.GAP)
        self.axes.set_ylim(rows * (1 + headroom) + (rows - 1) * self.GAP, 0)

    def _corner(self, row: int, column: int) -> tuple[float, float]:
        return column * (1 + self.GAP), row * (1 + self.GAP) + (row + 1) * self.headroom

    def show(self, row: int, column: int, picture: np.ndarray, title: str = "", **options: Any) -> AxesImage:
        """Draw `picture`, (H, W) or (H, W, 3), as large as its cell allows, not stretched and not smoothed."""
        height, width = (side / max(picture.shape[:2]) for side in picture.shape[:2])
        x, y = self._corner(row, column)
        left, top = x + (1 - width) / 2, y + (1 - height) / 2
        if title:
            self.axes.text(x + 0.5, y - 0.03, title, ha="center", va="bottom", fontsize=8)
        extent = (left, left + width, top + height, top)
        return self.axes.imshow(picture, extent=extent, interpolation="nearest", aspect="equal", **options)

    def show_image(self, row: int, column: int, image: np.ndarray, title: str = "") -> None:
        """Draw an image, (H, W, 1) or (H, W, 3), uint8 or floats in [0, 1]."""
        image = np.asarray(image)
        picture = image[..., 0] if image.shape[2] == 1 else image
        self.show(row, column, picture, title, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)

    def write(self, row: int, column: int, text: str) -> None:
        """Write in the middle of a cell."""
        x, y = self._corner(row, column)
        self.axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8)
