"""Options of the three architectures."""

from __future__ import annotations

from dataclasses import dataclass

from gpunet.options import Options, option

ACTIVATIONS = ("relu", "leaky_relu", "tanh", "gelu", "gelu_tanh")
INITS = ("he", "he_uniform", "xavier", "xavier_uniform", "random", "random_uniform")
POOLINGS = ("max", "average", "global_average", "none")


@dataclass(frozen=True)
class MLPConfig(Options):
    """The multilayer perceptron: 784-128-64-10 by default."""

    hidden: tuple[int, ...] = option((128, 64), "sizes of the hidden layers", low=1)
    activation: str = option("relu", "activation after each hidden layer", choices=ACTIVATIONS)
    dropout: float = option(0.0, "probability of dropping a hidden unit", low=0, high=1, high_open=True)
    init: str = option("he", "initialisation of the weights", choices=INITS)


@dataclass(frozen=True)
class CNNConfig(Options):
    """The convolutional network: five blocks of convolution, batch norm, activation and pooling by default."""

    filters: tuple[int, ...] = option((32, 64, 128, 256, 512), "output channels of each block", low=1)
    kernel_sizes: tuple[int, ...] = option((3,), "kernel size of each block, or one for all", low=1)
    pooling: str = option(
        "max",
        "max or average: a 2x2 pooling after each block as long as the map has 2x2 pixels; global_average: 2x2 max "
        "pooling after the first three blocks and global average pooling after the last; none: no pooling",
        choices=POOLINGS,
    )
    pool_after: tuple[int, ...] = option(
        (), "numbers of the blocks, from 1, that end in a 2x2 pooling (default: as said of pooling)", low=1
    )
    activation: str = option("relu", "activation of each block", choices=ACTIVATIONS)
    batch_norm: bool = option(True, "batch normalisation in each block")
    head: tuple[int, ...] = option((), "sizes of hidden layers between the features and the classes", low=1)
    dropout: float = option(
        0.2, "probability of dropping a feature before each linear layer", low=0, high=1, high_open=True
    )
    init: str = option("he", "initialisation of the weights", choices=INITS)


@dataclass(frozen=True)
class HybridConfig(CNNConfig):
    """The hybrid: the CNN's features, classified by an MLP."""

    feature_layer: str = option("features", "layer of the CNN whose output is the MLP's input (see summary)")
    classifier_hidden: tuple[int, ...] = option((128, 64), "sizes of the MLP's hidden layers", low=1)
    classifier_activation: str = option("relu", "activation of the MLP", choices=ACTIVATIONS)
    classifier_dropout: float = option(0.2, "dropout of the MLP", low=0, high=1, high_open=True)
