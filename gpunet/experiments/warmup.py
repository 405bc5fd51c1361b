"""Compiling all kernels before the first training run; they are cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gpunet.backend import Backend
from gpunet.data.loader import Loader
from gpunet.experiments.config import merge
from gpunet.models import MODELS, create
from gpunet.training import Trainer, evaluate
from gpunet.training.evaluation import EVALUATION_BATCH

_TRAINED, _CLASSES = 256, 10
"""Images of the training step, and classes."""


def warm_up(backend: Backend, on_compile: Callable[[str, int | None], None]) -> None:
    """Compile the kernels for `backend` that are not cached; `on_compile` is called with each name and the total.

    On a GPU these are all sources in all their specialisations. On the CPU, where Numba compiles for the types it
    encounters and the total is unknown (None), they are those of the default recipes: each model takes a training step
    on random images.
    """
    if not backend.compile_ahead(on_compile):
        with backend.watch_compilation(lambda name: on_compile(name, None)):
            _train_once(backend)


def _train_once(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EVALUATION_BATCH, 28, 28, 1), np.uint8)  # large batches have kernels of their own
    labels = rng.integers(0, _CLASSES, EVALUATION_BATCH)
    for kind in MODELS:
        config = merge(kind=kind)
        model = create(config.model, images.shape[1:], _CLASSES).initialize(device=backend)
        some = images[:_TRAINED], labels[:_TRAINED]
        augmented = Loader(*some, backend=backend, flip=config.data.flip, shift=config.data.shift)
        plain = Loader(images, labels, backend=backend)
        Trainer(model, replace(config.training, epochs=1), train=augmented, validation=plain, progress=False).fit()
        evaluate(model, plain, keep_probabilities=True)
