"""From options to a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpunet.models.cnn import CNN
from gpunet.models.config import CNNConfig, HybridConfig, MLPConfig
from gpunet.models.hybrid import Hybrid
from gpunet.models.mlp import MLP


def create(config: MLPConfig | CNNConfig, input_shape: Sequence[int], classes: int) -> MLP | CNN | Hybrid:
    """The model that `config` describes, for images (H, W, C) = `input_shape`; its arrays are not allocated yet."""
    if isinstance(config, MLPConfig):
        sizes = (math.prod(input_shape), *config.hidden, classes)
        return MLP(sizes, config.activation, config.dropout, config.init)
    cnn = create_cnn(config, input_shape, classes)
    return create_hybrid(config, cnn, classes) if isinstance(config, HybridConfig) else cnn


def create_cnn(config: CNNConfig, input_shape: Sequence[int], classes: int) -> CNN:
    """The CNN of `config`: the whole model, or the first stage of a hybrid."""
    return CNN(
        input_shape,
        classes,
        config.filters,
        config.kernel_sizes,
        config.pooling,
        config.activation,
        config.batch_norm,
        config.init,
        config.head,
        config.dropout,
        config.pool_after,
    )


def create_hybrid(config: HybridConfig, cnn: CNN, classes: int) -> Hybrid:
    """The hybrid of `config` on top of `cnn`."""
    return Hybrid(
        cnn,
        classes,
        feature_layer=config.feature_layer,
        hidden=config.classifier_hidden,
        activation=config.classifier_activation,
        dropout=config.classifier_dropout,
        init=config.init,
    )
