"""What all figures share: their look, and a page that is written whole or not at all."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def grid_of(figure: Figure, count: int, columns: int) -> list[Axes]:
    """`count` axes without frames in rows of `columns`."""
    if count == 0:
        return []
    grid = figure.subplots(math.ceil(count / columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return list(grid.flat)[:count]


def show(axes: Axes, image: np.ndarray) -> None:
    """A grey or colour image, uint8 or floats in [0, 1], on its own scale and not stretched."""
    image = np.asarray(image)
    picture = image[..., 0] if image.shape[2] == 1 else image
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, interpolation="nearest")
