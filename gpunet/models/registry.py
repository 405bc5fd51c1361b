"""The registry of models, :data:`MODELS`: commands, presets, sweeps and reports take the available models from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpunet.errors import ConfigError
from gpunet.models.cnn import CNN, CNNConfig
from gpunet.models.description import Description
from gpunet.models.hybrid import Hybrid, HybridConfig
from gpunet.models.mlp import MLP, MLPConfig
from gpunet.nn import Sequential
from gpunet.options import Options


@dataclass(frozen=True)
class ModelKind:
    """A kind of model, and all that the rest of gpunet needs to know about it.

    >>> gn.models.MODELS["mlp"].label, gn.models.MODELS["mlp"].with_article
    ('MLP', 'an mlp')
    """

    name: str
    """Its name in options and files."""
    label: str
    """Its name in text and tables."""
    article: str
    """The article before the name, ``a`` or ``an``."""
    help: str
    """Description for the command line."""
    config: type[Options]
    """Its options."""
    build: Callable[[Any, Sequence[int], int], Sequential]
    """Builds it from its options, the image shape (H, W, C) and the number of classes; its last layer is linear."""

    @property
    def with_article(self) -> str:
        return f"{self.article} {self.name}"


MODELS: dict[str, ModelKind] = {
    kind.name: kind
    for kind in (
        ModelKind("mlp", "MLP", "an", "a multilayer perceptron", MLPConfig, MLP.from_config),
        ModelKind("cnn", "CNN", "a", "a convolutional network", CNNConfig, CNN.from_config),
        ModelKind(
            "hybrid",
            "hybrid",
            "a",
            "a convolutional network with an MLP on its features",
            HybridConfig,
            Hybrid.from_config,
        ),
    )
}
"""By name."""


def kind_of(config: Options) -> ModelKind:
    """The kind of model whose options `config` holds.

    Raises:
        ConfigError: there is none.
    """
    for kind in MODELS.values():
        if type(config) is kind.config:
            return kind
    raise ConfigError(
        f"{type(config).__name__} is not the options class of any model: expected one of {', '.join(MODELS)}"
    )


def create(config: Options, input_shape: Sequence[int], classes: int) -> Sequential:
    """The model described by `config`, for images (H, W, C) = `input_shape`; its arrays are not allocated yet.

    >>> config = gn.models.MLPConfig(hidden=(32,))
    >>> gn.models.create(config, (28, 28, 1), 10).parameter_count  # 784 * 32 + 32 + 32 * 10 + 10
    25450
    """
    model = kind_of(config).build(config, input_shape, classes)
    model.description = Description(config, tuple(input_shape), classes)
    return model
