"""Models of every kind of layer, small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpunet.models import CNN, MLP, Hybrid

SHAPE = (8, 6, 3)

MODELS: dict[str, Any] = {
    "mlp, gelu": lambda: MLP((144, 9, 5, 4), "gelu", 0.2),
    "mlp, gelu_tanh": lambda: MLP((144, 9, 5, 4), "gelu_tanh"),
    "mlp, relu": lambda: MLP((144, 7, 4), "relu"),
    "cnn, average, tanh": lambda: CNN(SHAPE, 4, (5, 6), (3, 2), "average", "tanh"),
    "cnn, max, leaky_relu": lambda: CNN(SHAPE, 4, (5, 6), head=(7,), activation="leaky_relu", dropout=0.1),
    "cnn, max after one": lambda: CNN(SHAPE, 4, (5, 6), pool_after=(1,)),
    "cnn, global_average": lambda: CNN(SHAPE, 4, (5, 6), pooling="global_average", batch_norm=False),
    "hybrid": lambda: Hybrid(CNN(SHAPE, 4, (5, 6)), 4, feature_layer="block1", hidden=(7,), activation="gelu"),
}


def made(name: str, make: Callable[[], Any] | None = None) -> Any:
    """The model, initialised, with running statistics as if it was trained."""
    model = (make or MODELS[name])().initialize(seed=1)
    for _, buffer in model.named_buffers():
        buffer.value[...] = np.random.default_rng(3).uniform(0.3, 2, buffer.shape)
    return model
