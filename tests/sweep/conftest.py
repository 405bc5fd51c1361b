"""Small sweeps on a small data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpunet.sweep import Sweep, load_sweep


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 8 x 8 of three brightnesses, one class each."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = (rng.integers(0, 90, (240, 8, 8)) + 20 * y[:, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x_train=x[:180], y_train=y[:180], x_test=x[180:], y_test=y[180:])
    return path


Declare = Callable[..., Sweep]


@pytest.fixture
def declare(tmp_path: Path, data: Path) -> Declare:
    """``declare(axes, sweep="...", base="...")``: a sweep of small MLPs, from a file."""

    def make(axes: str, sweep: str = "", base: str = "", *, name: str = "tiny") -> Sweep:
        path = tmp_path / f"{name}.toml"
        path.write_text(
            f'[sweep]\nseeds = [0, 1]\n{sweep}\n[base]\nkind = "mlp"\npreset = "baseline"\nhidden = [6]\nepochs = 2\n'
            f'batch_size = 16\ndata = "{data}"\n{base}\n[axes]\n{axes}\n',
            encoding="utf-8",
        )
        return load_sweep(path)

    return make
