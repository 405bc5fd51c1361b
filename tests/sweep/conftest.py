"""Small sweeps on a small data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpunet.sweep import Sweep, load_sweep
from tests.experiments.conftest import data  # noqa: F401

Declare = Callable[..., Sweep]


@pytest.fixture
def declare(tmp_path: Path, data: Path) -> Declare:  # noqa: F811
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
