"""The multilayer perceptron: Flatten, then Linear + activation + dropout for each hidden layer, then Linear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gpunet.errors import ConfigError
from gpunet.models.description import Description, described
from gpunet.nn import ACTIVATIONS, Dropout, Flatten, Initializer, Layer, Linear, Sequential, make_activation
from gpunet.nn.init import INITIALIZERS, from_name
from gpunet.options import Options, option


@dataclass(frozen=True)
class MLPConfig(Options):
    """The multilayer perceptron: 784-128-64-10 by default.

    >>> gn.models.MLPConfig(hidden=[32], dropout=0).hidden
    (32,)
    >>> gn.models.MLPConfig(activation="rel")
    Traceback (most recent call last):
    ...
    gpunet.errors.ConfigError: activation must be one of relu, ...; got 'rel' (did you mean 'relu'?)
    """

    hidden: tuple[int, ...] = option((128, 64), "sizes of the hidden layers", low=1)
    activation: str = option("relu", "activation after each hidden layer", choices=ACTIVATIONS)
    dropout: float = option(0.0, "probability of dropping a hidden unit", low=0, high=1, high_open=True)
    init: str = option("he", "initialisation of the weights", choices=INITIALIZERS)


class MLP(Sequential):
    """A multilayer perceptron on inputs of any shape.

    Args:
        sizes: input features, hidden layers ..., classes; e.g. ``(784, 128, 64, 10)``.
        activation: ``relu``, ``leaky_relu``, ``tanh``, ``gelu`` or ``gelu_tanh``, after each hidden layer.
        dropout: probability of dropping a hidden unit, in [0, 1).
        init: initialiser of the weights, or its name (``he``, ``xavier``, ``random`` and their ``_uniform`` forms).

    >>> model = gn.models.MLP((784, 128, 64, 10)).initialize(seed=0)
    >>> model(np.zeros((2, 28, 28, 1), np.float32)).shape
    (2, 10)
    >>> model.parameter_count  # 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    109386
    """

    def __init__(
        self,
        sizes: Sequence[int] = (784, 128, 64, 10),
        activation: str = "relu",
        dropout: float = 0.0,
        init: str | Initializer = "he",
    ) -> None:
        if len(sizes) < 2:
            raise ConfigError(f"sizes must hold at least the numbers of inputs and classes, got {tuple(sizes)}")
        super().__init__([("flatten", Flatten()), *linear_stack(sizes, activation, dropout, init)])
        self.description = described(
            MLPConfig,
            (int(sizes[0]),),
            int(sizes[-1]),
            hidden=tuple(sizes[1:-1]),
            activation=activation,
            dropout=dropout,
            init=init,
        )

    @classmethod
    def from_config(cls, config: MLPConfig, input_shape: Sequence[int], classes: int) -> MLP:
        """The MLP described by `config`, for inputs of `input_shape`."""
        sizes = (math.prod(input_shape), *config.hidden, classes)
        model = cls(sizes, config.activation, config.dropout, config.init)
        model.description = Description(config, tuple(input_shape), classes)
        return model


def linear_stack(
    sizes: Sequence[int], activation_name: str, dropout: float, init: str | Initializer
) -> list[tuple[str, Layer]]:
    """Linear layers of the given `sizes`, with activation and dropout between them but not after the last."""
    make_weight = from_name(init) if isinstance(init, str) else init
    layers: list[tuple[str, Layer]] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        layers.append((f"linear{number}", Linear(inputs, outputs, init=make_weight)))
        if number < len(sizes) - 1:
            layers.append((f"activation{number}", make_activation(activation_name)))
            if dropout > 0:
                layers.append((f"dropout{number}", Dropout(dropout)))
    return layers
