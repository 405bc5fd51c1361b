"""The hybrid: an MLP classifier on the features of a CNN, as one network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpunet.backend import Array
from gpunet.models.cnn import CNN, CNNConfig
from gpunet.models.description import described
from gpunet.models.mlp import MLP
from gpunet.nn import ACTIVATIONS, ForwardContext, Initializer, Sequential
from gpunet.options import option, option_fields


@dataclass(frozen=True)
class HybridConfig(CNNConfig):
    """The hybrid: an MLP classifier on the CNN's features.

    >>> config = gn.models.HybridConfig(filters=(4,), classifier_hidden=(5,))
    >>> gn.models.create(config, (8, 8, 1), 3).classifier.parameter_count  # 64 * 5 + 5 + 5 * 3 + 3
    343
    """

    feature_layer: str = option("features", "layer of the CNN whose output is the MLP's input (see summary)")
    classifier_hidden: tuple[int, ...] = option((128, 64), "sizes of the MLP's hidden layers", low=1)
    classifier_activation: str = option("relu", "activation of the MLP", choices=ACTIVATIONS)
    classifier_dropout: float = option(0.2, "dropout of the MLP", low=0, high=1, high_open=True)


class Hybrid(Sequential):
    """``cnn`` (the layers of a CNN up to `feature_layer`) and ``classifier`` (an MLP on its flattened output).

    The layers of `cnn` are shared, not copied: train the CNN first, build the hybrid from it, and
    :meth:`~gpunet.nn.Layer.initialize` keeps the trained values and initialises the MLP's.
    :func:`gpunet.training.fit_hybrid` runs the whole pipeline.

    Args:
        cnn: the CNN whose features are used.
        classes: number of classes.
        feature_layer: name of the layer of `cnn` whose output is the MLP's input.
        hidden, activation, dropout, init: those of the MLP; see :class:`gpunet.models.MLP`.

    >>> cnn = gn.models.CNN((8, 8, 1), 3, filters=(4,))
    >>> model = gn.models.Hybrid(cnn, 3, hidden=(5,))
    >>> model.extractor.output_shape((8, 8, 1)), model.classifier.parameter_count  # 64 * 5 + 5 + 5 * 3 + 3
    ((64,), 343)
    """

    def __init__(
        self,
        cnn: CNN,
        classes: int = 10,
        *,
        feature_layer: str = "features",
        hidden: Sequence[int] = (128, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        init: str | Initializer = "he",
    ) -> None:
        self.input_shape = cnn.input_shape
        self.extractor = cnn.until(feature_layer)
        inputs = math.prod(self.extractor.output_shape(cnn.input_shape))
        self.classifier = MLP((inputs, *hidden, classes), activation, dropout, init)
        super().__init__([("cnn", self.extractor), ("classifier", self.classifier)])
        if cnn.description is not None:
            of_cnn = {name: getattr(cnn.description.config, name) for name in option_fields(CNNConfig)}
            self.description = described(
                HybridConfig,
                self.input_shape,
                int(classes),
                feature_layer=feature_layer,
                classifier_hidden=tuple(hidden),
                classifier_activation=activation,
                classifier_dropout=dropout,
                **{**of_cnn, "init": init},
            )

    @classmethod
    def from_config(cls, config: HybridConfig, input_shape: Sequence[int], classes: int) -> Hybrid:
        """The hybrid described by `config`, for images (H, W, C) = `input_shape`."""
        return cls.on(CNN.from_config(config, input_shape, classes), config, classes)

    @classmethod
    def on(cls, cnn: CNN, config: HybridConfig, classes: int) -> Hybrid:
        """The hybrid described by `config`, on top of `cnn`."""
        return cls(
            cnn,
            classes,
            feature_layer=config.feature_layer,
            hidden=config.classifier_hidden,
            activation=config.classifier_activation,
            dropout=config.classifier_dropout,
            init=config.init,
        )

    def extract_features(self, x: Array) -> Array:
        """The MLP's input, (N, F), for x (N, H, W, C), in inference mode."""
        features = self.extractor.forward(x, ForwardContext())[0]
        return features.reshape(len(features), math.prod(features.shape[1:]))
