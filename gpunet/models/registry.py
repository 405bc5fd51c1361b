"""The kinds of model that options can name: :data:`MODELS`, from which commands, presets, sweeps and reports go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpunet.errors import ConfigError
from gpunet.models.cnn import CNN, CNNConfig
from gpunet.models.hybrid import Hybrid, HybridConfig
from gpunet.models.mlp import MLP, MLPConfig
from gpunet.nn import Sequential
from gpunet.options import Options


@dataclass(frozen=True)
class ModelKind:
    """A kind of model, and all that the rest of gpunet has to know of it."""

    name: str
    """What options and files call it."""
    label: str
    """What texts and tables call it."""
    article: str
    """``a`` or ``an``, before the name."""
    help: str
    """What it is, for the command line."""
    config: type[Options]
    """Its options."""
    build: Callable[[Any, Sequence[int], int], Sequential]
    """Makes it of its options, the shape of an image (H, W, C) and the number of classes; its last layer is linear."""

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
            "a convolutional network whose features an MLP classifies",
            HybridConfig,
            Hybrid.from_config,
        ),
    )
}
"""By name."""


def kind_of(config: Options) -> ModelKind:
    """The kind of model that `config` holds the options of.

    Raises:
        ConfigError: it is of none.
    """
    for kind in MODELS.values():
        if type(config) is kind.config:
            return kind
    raise ConfigError(f"{type(config).__name__} holds the options of no model: expected one of {', '.join(MODELS)}")


def create(config: Options, input_shape: Sequence[int], classes: int) -> Sequential:
    """The model that `config` describes, for images (H, W, C) = `input_shape`; its arrays are not allocated yet."""
    return kind_of(config).build(config, input_shape, classes)
