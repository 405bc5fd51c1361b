"""A small problem that trains in a fraction of a second: noisy images of a bright quadrant, one class each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpunet.backend import CPU, Backend
from gpunet.data.loader import Loader
from gpunet.models import CNN
from gpunet.nn import Layer
from gpunet.training import Callback, Trainer, TrainingConfig
from gpunet.training.history import Record


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 8, 8, 1) uint8 images and their labels 0 ... 3."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n).astype(np.int32)
    pixels = rng.integers(0, 120, (n, 8, 8, 1))
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 60
    return pixels.astype(np.uint8), labels


def loaders(backend: Backend = CPU, **options: Any) -> dict[str, Loader]:
    """Training data with `options` (augmentation, dtype), and validation data."""
    plain = {"dtype": options.get("dtype", "float32")}
    return {
        "train": Loader(*images(200, 1), backend=backend, **options),
        "validation": Loader(*images(100, 2), backend=backend, **plain),
    }


def make_trainer(
    run_dir: Path | None = None, callbacks: tuple[Callback, ...] = (), model: Layer | None = None, **options: Any
) -> Trainer:
    """A trainer of a small CNN with dropout and batch norm on the problem."""
    if model is None:
        model = CNN((8, 8, 1), 4, (4, 8), dropout=0.1).initialize(seed=options.get("seed", 0))
    extra = {name: options.pop(name) for name in ("checkpoint_minutes", "progress") if name in options}
    config = TrainingConfig(**{"epochs": 4, "batch_size": 32, "lr": 5e-3, **options})
    return Trainer(model, config, **loaders(shift=1), run_dir=run_dir, callbacks=callbacks, **extra)


def without_times(records: list[Record]) -> list[Record]:
    """The records of epochs without what differs from run to run."""
    return [{k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in records]
