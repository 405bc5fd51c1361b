"""The convolutional network: blocks of convolution, batch norm, activation and pooling, then a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpunet.backend import Array
from gpunet.errors import ConfigError
from gpunet.models.description import described
from gpunet.models.mlp import linear_stack
from gpunet.nn import (
    ACTIVATIONS,
    ConvBlock,
    Dropout,
    Flatten,
    ForwardContext,
    GlobalAvgPool2d,
    Initializer,
    Layer,
    Sequential,
)
from gpunet.nn.init import INITIALIZERS, from_name
from gpunet.options import Options, option

POOLINGS = ("max", "average", "global_average", "none")


@dataclass(frozen=True)
class CNNConfig(Options):
    """The convolutional network: five blocks of convolution, batch norm, activation and pooling by default.

    >>> config = gn.models.CNNConfig(filters=(8, 16), pooling="average")
    >>> gn.models.create(config, (28, 28, 1), 10).output_shape((28, 28, 1))
    (10,)
    """

    filters: tuple[int, ...] = option((32, 64, 128, 256, 512), "output channels of each block", low=1)
    kernel_sizes: tuple[int, ...] = option((3,), "kernel size of each block, or one for all", low=1)
    pooling: str = option(
        "max",
        "max or average: 2x2 pooling after each block while the map is at least 2x2; global_average: 2x2 max "
        "pooling after the first three blocks and global average pooling after the last; none: no pooling",
        choices=POOLINGS,
    )
    pool_after: tuple[int, ...] = option(
        (), "numbers of the blocks, from 1, that end in 2x2 pooling (default: see pooling)", low=1
    )
    activation: str = option("relu", "activation of each block", choices=ACTIVATIONS)
    batch_norm: bool = option(True, "batch normalisation in each block")
    head: tuple[int, ...] = option((), "sizes of hidden layers between the features and the classes", low=1)
    dropout: float = option(
        0.2, "probability of dropping a feature before each linear layer", low=0, high=1, high_open=True
    )
    init: str = option("he", "initialisation of the weights", choices=INITIALIZERS)


class CNN(Sequential):
    """A convolutional network of blocks, and a classifier of one or more linear layers.

    Its layers are ``block1`` to ``blockN``, ``features`` (Flatten or GlobalAvgPool2d), the hidden layers of `head` and
    ``linearK``.

    Args:
        input_shape: (H, W, C) of an image.
        classes: number of classes.
        filters: output channels of each block.
        kernel_sizes: of each block, or one for all.
        pooling: ``max`` or ``average``: 2x2 after each block while the map is at least 2x2; ``global_average``: 2x2 max
            pooling after the first three blocks, global average pooling after the last; ``none``.
        activation: as for :class:`gpunet.models.MLP`.
        batch_norm: batch normalisation in each block.
        init: initialiser of the weights, or its name.
        head: sizes of the hidden linear layers between features and logits.
        dropout: probability of dropping an input of each linear layer.
        pool_after: numbers of the blocks, from 1, that end in 2x2 pooling; overrides those implied by `pooling`.

    Raises:
        ConfigError: the options are inconsistent.

    >>> model = gn.models.CNN((28, 28, 1), 10, filters=(8, 16))
    >>> [model.until(name).output_shape((28, 28, 1)) for name in ("block1", "block2", "features")]
    [(14, 14, 8), (7, 7, 16), (784,)]
    >>> model.output_shape((28, 28, 1))
    (10,)
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (28, 28, 1),
        classes: int = 10,
        filters: Sequence[int] = (32, 64, 128, 256, 512),
        kernel_sizes: int | Sequence[int] = 3,
        pooling: str = "max",
        activation: str = "relu",
        batch_norm: bool = True,
        init: str | Initializer = "he",
        head: Sequence[int] = (),
        dropout: float = 0.0,
        pool_after: Sequence[int] = (),
    ) -> None:
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
        if len(input_shape) != 3 or not filters:
            raise ConfigError(f"a CNN needs images (H, W, C) and at least one block, got {input_shape} and {filters}")
        kernels = [kernel_sizes] if isinstance(kernel_sizes, int) else list(kernel_sizes)
        if len(kernels) not in (1, len(filters)):
            raise ConfigError(f"{len(kernels)} kernel_sizes for {len(filters)} filters: give one, or one per block")
        kernels *= len(filters) // len(kernels)
        if pool_after and (pooling == "none" or max(pool_after) > len(filters)):
            raise ConfigError(
                f"pool_after {tuple(pool_after)} does not fit pooling {pooling!r} with {len(filters)} blocks"
            )
        make_weight = from_name(init) if isinstance(init, str) else init
        self.input_shape = tuple(input_shape)

        layers: list[tuple[str, Layer]] = []
        shape, kind = self.input_shape, "average" if pooling == "average" else "max"
        for number, (count, kernel) in enumerate(zip(filters, kernels, strict=True), start=1):
            if pool_after:
                pools = number in pool_after
            else:
                pools = not (pooling == "none" or (pooling == "global_average" and number > 3)) and min(shape[:2]) >= 2
            block = ConvBlock(
                shape[2],
                count,
                kernel,
                batch_norm=batch_norm,
                activation=activation,
                pool=kind if pools else None,
                init=make_weight,
            )
            layers.append((f"block{number}", block))
            shape = block.output_shape(shape)
        features: Layer = GlobalAvgPool2d() if pooling == "global_average" else Flatten()
        layers.append(("features", features))
        stack = linear_stack((*features.output_shape(shape), *head, classes), activation, dropout, make_weight)
        if dropout > 0:
            layers.append(("dropout", Dropout(dropout)))
        super().__init__([*layers, *stack])
        self.description = described(
            CNNConfig,
            self.input_shape,
            int(classes),
            filters=tuple(filters),
            kernel_sizes=(kernel_sizes,) if isinstance(kernel_sizes, int) else tuple(kernel_sizes),
            pooling=pooling,
            pool_after=tuple(pool_after),
            activation=activation,
            batch_norm=batch_norm,
            head=tuple(head),
            dropout=dropout,
            init=init,
        )

    @classmethod
    def from_config(cls, config: CNNConfig, input_shape: Sequence[int], classes: int) -> CNN:
        """The CNN described by `config`, for images (H, W, C) = `input_shape`: a model, or a hybrid's first stage."""
        return cls(
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

    def extract_features(self, x: Array, layer: str = "features") -> Array:
        """Output of `layer` in inference mode, for x (N, H, W, C): maps for ``blockK``, (N, F) for ``features``.

        Raises:
            ConfigError: there is no such layer.
        """
        return self.until(layer).forward(x, ForwardContext())[0]

    def until(self, layer: str) -> Sequential:
        """The layers up to and including `layer` (dotted names such as ``block2.conv``), shared with this model."""
        cut = _cut(self, layer)
        if cut is None:
            names = [name for name, _ in self.named_layers() if name]
            raise ConfigError(f"there is no layer {layer!r}: expected one of {', '.join(names)}")
        return cut


def _cut(model: Sequential, layer: str) -> Sequential | None:
    first, _, rest = layer.partition(".")
    kept: list[tuple[str, Layer]] = []
    for name, child in model.layers.items():
        if name == first:
            inner: Layer | None = child
            if rest:
                inner = _cut(child, rest) if isinstance(child, Sequential) else None
            return None if inner is None else Sequential([*kept, (name, inner)])
        kept.append((name, child))
    return None
