"""What the tests share: comparisons with derived tolerances, a gradient check, difficult data, and optional oracles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TORCH_MISSING = "PyTorch is not installed: pip install -e '.[peers]' to compare with it"


def torch_or_skip() -> Any:
    """PyTorch, or a skip with the reason."""
    return pytest.importorskip("torch", reason=TORCH_MISSING)


def assert_close(
    actual: np.ndarray,
    expected: np.ndarray,
    *,
    terms: int = 1,
    dtype: Any = None,
    scale: float | None = None,
    c: float = 8.0,
) -> None:
    """Assert that `actual` is `expected` up to the rounding of sums of `terms` products.

    The tolerance is c * eps(dtype) * sqrt(terms) * scale: rounding errors of a sum grow like the square root of its
    length (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2, statistical estimate). `scale` is the
    size of the terms' sum of absolute values where the caller knows it; by default the largest expected magnitude.
    Finiteness and shapes are checked first: a NaN never passes.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert np.isfinite(expected).all(), "the oracle itself is not finite"
    assert np.isfinite(actual).all(), "the result is not finite"
    eps = np.finfo(dtype or actual.dtype).eps
    if scale is None:
        scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    tolerance = c * eps * np.sqrt(terms) * scale
    error = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    assert error <= tolerance, f"largest error {error:.3g} exceeds {tolerance:.3g}"


def sum_scale(expected: np.ndarray, terms: int) -> float:
    """Scale for results that are sums of `terms` products of standard normal numbers.

    A single sum can cancel to almost nothing, but its rounding errors are those of partial sums of size sqrt(terms).
    """
    return max(float(np.abs(expected).max(initial=0.0)), float(np.sqrt(terms)))


def one_row(*values: float) -> np.ndarray:
    """A map of one row and one channel."""
    return np.array(values, np.float64).reshape(1, 1, -1, 1)


def large_means(kind: str, rows: int, channels: int, every: int = 1) -> np.ndarray:
    """A float32 matrix whose columns have means that are large against their deviations.

    `kind` is ``plain``, ``sorted``, ``drifting`` or ``outliers``: those are each `every`-th row, such as the ones from
    which the deviations of the others are taken.
    """
    x = np.random.default_rng(7).normal(1000, 0.5, (rows, channels))
    if kind == "sorted":
        x = np.sort(x, 0)
    if kind == "drifting":
        x += np.linspace(0, 100, rows)[:, None]
    if kind == "outliers":
        x[::every] += 300
    return x.astype(np.float32)


def saved_figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """A list to which every figure is added that Matplotlib saves from now on."""
    from matplotlib.figure import Figure

    saved = []
    savefig = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        saved.append(self)
        savefig(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def check_gradient(
    function: Callable[[np.ndarray], np.ndarray],
    gradient: np.ndarray,
    x: np.ndarray,
    dy: np.ndarray,
    rng: np.random.Generator,
    *,
    step: float = 1e-6,
) -> None:
    """Hold `gradient` (of sum(function(x) * dy) at float64 `x`) to central differences along a random direction.

    A kink within the step is recognised by one-sided differences that disagree; another direction is then tried.
    """
    assert x.dtype == np.float64 and np.isfinite(gradient).all()
    for _ in range(5):
        direction = rng.standard_normal(x.shape)
        direction /= np.linalg.norm(direction)
        ahead, here, behind = (float((function(x + s * direction) * dy).sum()) for s in (step, 0.0, -step))
        right, left = (ahead - here) / step, (here - behind) / step
        scale = float(np.linalg.norm(gradient)) + 1e-12
        if abs(right - left) > 1e-3 * scale:
            continue  # a kink lies within the step
        expected = (ahead - behind) / (2 * step)
        actual = float((gradient * direction).sum())
        # central differences: truncation ~ step^2, rounding ~ eps * |f| / step
        tolerance = 1e-5 * scale + 8 * np.finfo(np.float64).eps * (np.abs(function(x) * dy).sum()) / step
        assert abs(actual - expected) <= tolerance, f"directional derivative {actual:.9g}, differences {expected:.9g}"
        return
    pytest.fail("every direction crossed a kink")


def save_brightness_data(path: Path, *, train: int, test: int, spread: int = 90, step: int = 20) -> Path:
    """An NPZ data set of noisy pictures 8 x 8 in three brightnesses, one per class; returns `path`."""
    rng, count = np.random.default_rng(0), train + test
    y = np.arange(count) % 3
    x = (rng.integers(0, spread, (count, 8, 8)) + step * y[:, None, None]).astype(np.uint8)
    np.savez(path, x_train=x[:train], y_train=y[:train], x_test=x[train:], y_test=y[train:])
    return path
