"""Shared by all figures: matplotlib and its style, pages that are written atomically, and drawings inside HTML."""

from __future__ import annotations

import contextlib
import functools
import html
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.errors import ConfigError
from gpunet.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PathLike = str | os.PathLike[str]

# Okabe & Ito, "Color Universal Design" (2008).
BLUE, ORANGE, GREEN, VERMILLION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
WHITE = "#ffffff"

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

# The user's matplotlib settings must not change the figures; class names are not formulas.
_SETTINGS: dict[str, Any] = {"text.parse_math": False, "font.size": 9}

_INK = "#010101"
_INKS = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
_VARIABLES = {
    _INK: "currentColor",
    WHITE: "var(--paper)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    VERMILLION: "var(--vermillion)",
    GREY: "var(--grey)",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(TEN)},
}
"""The CSS variables that replace the colours of a drawing in HTML, so that they adapt to light and dark mode."""


def load_matplotlib() -> None:
    """Import matplotlib, whatever the environment variable MPLBACKEND says.

    Jupyter sets it for all its child processes, and matplotlib cannot be imported while it names a backend that is not
    installed. Figures do not use it: Agg draws the PNG files. For the caller's own figures it stays in force.

    Raises:
        ConfigError: matplotlib cannot be imported.
    """
    if sys.modules.get("matplotlib") is not None:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    except Exception as error:  # a broken installation raises anything
        raise ConfigError(
            f"figures need matplotlib, which cannot be imported ({type(error).__name__}: {error}): "
            "pip install --force-reinstall matplotlib"
        ) from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):  # not installed
            matplotlib.rcParams["backend"] = backend


@contextlib.contextmanager
def page(path: PathLike | None, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches to draw on; it is saved as a PNG file at `path`, unless that is None.

    A notebook shows it.

    Raises:
        ConfigError: matplotlib cannot be imported. OutputError: `path` cannot be written.
    """
    with contextlib.ExitStack() as stack:
        temporary = None if path is None else stack.enter_context(atomic_write(path))
        figure = _shown_figure(width, height)
        stack.enter_context(_look({}))
        yield figure
        if temporary is not None:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def _shown_figure(width: float, height: float) -> Figure:
    return _figure_type()(figsize=(width, height), layout="constrained")


@functools.cache
def _figure_type() -> type[Figure]:
    """Figures that a notebook shows without pyplot, which would keep each of them until it is closed."""
    load_matplotlib()
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            with _look({}):
                self.savefig(buffer, format="png", dpi=DPI)
            return buffer.getvalue()

    return ShownFigure


def axes_or_new(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure: the argument that every function ``draw_*`` has, and what it returns."""
    return _shown_figure(6.4, 4.4).subplots() if ax is None else ax


def legend_above(axes: Axes, name: str = "") -> None:
    """A legend in one line between the axes and their title, where it hides nothing; `name` is what it is about."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    if name:
        handles, labels = [Line2D([], [], linestyle="none"), *handles], [f"{name}:", *labels]
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "borderaxespad": 0.1}
    axes.legend(
        handles, labels, ncols=len(labels), frameon=False, fontsize=8, handlelength=1.5, columnspacing=1.2, **place
    )
    axes.set_title(axes.get_title(), fontsize=axes.title.get_fontsize(), pad=20)


def drawing(draw: Callable[[Figure], object], width: float, height: float, *, name: str, description: str) -> str:
    """What `draw` draws on a figure of `width` x `height` inches, as an ``<svg>`` element to embed in HTML.

    It has a transparent background, text is kept as text, colours are CSS variables of the page, and it fills the
    available width.

    Args:
        name: unique on the page, the prefix of all ids in the drawing.
        description: the alternative text.

    Raises:
        ConfigError: matplotlib cannot be imported.
    """
    load_matplotlib()
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with _look({"svg.fonttype": "none", "svg.hashsalt": name, "legend.frameon": False, **dict.fromkeys(_INKS, _INK)}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, dpi=DPI, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    colours = {colour.lower(): variable for colour, variable in _VARIABLES.items()}
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: colours.get(found[0], found[0]), text)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    label = html.escape(description)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{label}">{text[text.index(">") + 1 :]}'


@contextlib.contextmanager
def _look(settings: dict[str, Any]) -> Iterator[None]:
    from matplotlib import style

    with style.context(["default", _SETTINGS, settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def displayable(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) as a picture: one channel in grey, (H, W); three in colour, (H, W, 3); others as their mean.

    The meaning of two, or of four or more channels is unknown: the fourth need not be an opacity.
    """
    if image.shape[2] == 3:
        return image
    if image.shape[2] == 1:
        return image[..., 0]
    mean: np.ndarray = image.mean(axis=2)
    return np.rint(mean).astype(np.uint8) if image.dtype == np.uint8 else mean


class Sheet:
    """A grid of square cells for images on a single axes, which is much faster than one axes per image.

    headroom: space above each cell for a title, as a fraction of its side.
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
        """Draw `picture`, (H, W) or (H, W, 3), as large as its cell allows, neither stretched nor smoothed."""
        height, width = (side / max(picture.shape[:2]) for side in picture.shape[:2])
        x, y = self._corner(row, column)
        left, top = x + (1 - width) / 2, y + (1 - height) / 2
        if title:
            self.axes.text(x + 0.5, y - 0.03, title, ha="center", va="bottom", fontsize=8)
        extent = (left, left + width, top + height, top)
        return self.axes.imshow(picture, extent=extent, interpolation="nearest", aspect="equal", **options)

    def show_image(self, row: int, column: int, image: np.ndarray, title: str = "") -> None:
        """Draw an image (H, W, C), uint8 or floats in [0, 1], as :func:`displayable` shows it."""
        picture = displayable(np.asarray(image))
        self.show(row, column, picture, title, cmap="gray", vmin=0, vmax=255 if picture.dtype == np.uint8 else 1)

    def write(self, row: int, column: int, text: str) -> None:
        """Write `text` in the middle of a cell."""
        x, y = self._corner(row, column)
        self.axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8)
