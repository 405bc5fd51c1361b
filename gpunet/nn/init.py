"""Parameter initialisation.

Fan in is the number of inputs per output, fan out the number of outputs per input: ``(in, out)`` for a linear weight,
times the kernel area for a convolution weight ``(KH, KW, C_in/groups, C_out)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from gpunet.checks import check_number
from gpunet.errors import ConfigError, ShapeError
from gpunet.nn.activation import Activation, make_activation
from gpunet.ops.random import PhiloxStream

Distribution = Literal["normal", "uniform"]
FanMode = Literal["fan_in", "fan_out"]


class Initializer(Protocol):
    """Draws the initial values of a parameter.

    >>> identity = lambda shape, stream: np.eye(*shape)
    >>> gn.nn.Linear(2, 2, init=identity).initialize().weight.value
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """

    def __call__(self, shape: tuple[int, ...], stream: PhiloxStream) -> np.ndarray:
        """float64 values of `shape`, drawn from `stream` in C order."""
        ...


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan in, fan out) of a weight: (in, out) or (KH, KW, C_in/groups, C_out).

    As in PyTorch, fan out is not divided by the groups of a grouped convolution.

    Raises:
        ShapeError: `shape` is neither.
    """
    if len(shape) not in (2, 4) or 0 in shape:
        raise ShapeError(
            f"fan in and fan out need a weight of shape (in, out) or (KH, KW, C_in/groups, C_out), got {tuple(shape)}; "
            "initialise it with Constant or Random"
        )
    area = math.prod(shape[:-2])
    return area * shape[-2], area * shape[-1]


def gain(activation: str | Activation) -> float:
    """The ``gain`` of an activation layer, or of a named one with default arguments; 1 for ``"linear"``.

    Raises:
        ConfigError: the activation is unknown.
    """
    if activation == "linear":
        return 1.0
    return (make_activation(activation) if isinstance(activation, str) else activation).gain


def _draw(shape: tuple[int, ...], stream: PhiloxStream, distribution: str, std: float) -> np.ndarray:
    n = math.prod(shape)
    if distribution == "normal":
        return (std * stream.normal(n)).reshape(shape)
    bound = math.sqrt(3.0) * std  # a uniform number in [-b, b) has variance b^2 / 3
    return (bound * (2.0 * stream.uniform(n) - 1.0)).reshape(shape)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


@dataclass(frozen=True)
class He:
    """Zero mean and standard deviation gain / sqrt(fan).

    He, Zhang, Ren & Sun, "Delving Deep into Rectifiers", ICCV 2015: with the gain sqrt(2) of relu (the default), eq. 10
    for fan in, which preserves the scale of the activations, and eq. 14 for fan out, which preserves that of the
    gradients. Other activations: ``He(gain=gain("tanh"))``. The bound of the uniform distribution is
    gain * sqrt(3 / fan).

    Raises:
        ConfigError: an argument is not one of its choices, or `gain` is not positive.

    >>> linear = gn.nn.Linear(6, 100, init=gn.nn.He("uniform")).initialize(seed=0)
    >>> 0.9 < float(linear.weight.value.max()) < 1  # the bound is sqrt(2) * sqrt(3 / 6)
    True
    """

    distribution: Distribution = "normal"
    gain: float | None = None
    mode: FanMode = "fan_in"

    def __post_init__(self) -> None:
        _check_choice("distribution", self.distribution, ("normal", "uniform"))
        _check_choice("mode", self.mode, ("fan_in", "fan_out"))
        if self.gain is not None:
            check_number("gain", self.gain, low=0, low_open=True)

    def __call__(self, shape: tuple[int, ...], stream: PhiloxStream) -> np.ndarray:
        fan = fans(shape)[0 if self.mode == "fan_in" else 1]
        factor = math.sqrt(2.0) if self.gain is None else self.gain
        return _draw(shape, stream, self.distribution, factor / math.sqrt(fan))


@dataclass(frozen=True)
class Xavier:
    """Zero mean and variance 2 / (fan in + fan out); for the uniform distribution, bound sqrt(6 / (fan in + fan out)).

    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010, eq. 12
    and 16.

    Raises:
        ConfigError: the distribution is not one of its choices.

    >>> linear = gn.nn.Linear(6, 90, init=gn.nn.Xavier("uniform")).initialize(seed=0)
    >>> 0.24 < float(linear.weight.value.max()) < 0.25  # the bound is sqrt(6 / 96)
    True
    """

    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        _check_choice("distribution", self.distribution, ("normal", "uniform"))

    def __call__(self, shape: tuple[int, ...], stream: PhiloxStream) -> np.ndarray:
        return _draw(shape, stream, self.distribution, math.sqrt(2.0 / sum(fans(shape))))


@dataclass(frozen=True)
class Random:
    """Zero mean and the same spread for every shape: `scale` is the standard deviation (normal) or bound (uniform).

    Raises:
        ConfigError: the distribution is not one of its choices, or `scale` is negative.

    >>> linear = gn.nn.Linear(6, 90, init=gn.nn.Random("uniform", scale=0.25)).initialize(seed=0)
    >>> 0.24 < float(linear.weight.value.max()) < 0.25
    True
    """

    distribution: Distribution = "normal"
    scale: float = 0.01

    def __post_init__(self) -> None:
        _check_choice("distribution", self.distribution, ("normal", "uniform"))
        check_number("scale", self.scale, low=0)

    def __call__(self, shape: tuple[int, ...], stream: PhiloxStream) -> np.ndarray:
        std = self.scale if self.distribution == "normal" else self.scale / math.sqrt(3.0)
        return _draw(shape, stream, self.distribution, std)


@dataclass(frozen=True)
class Constant:
    """A constant: for biases, and the scale and shift of batch norm.

    >>> gn.nn.Linear(1, 3, init=gn.nn.Constant(2.0)).initialize().weight.value
    array([[2., 2., 2.]], dtype=float32)
    """

    value: float

    def __call__(self, shape: tuple[int, ...], stream: PhiloxStream) -> np.ndarray:
        return np.full(shape, self.value, np.float64)


INITIALIZERS: dict[str, Initializer] = {
    "he": He(),
    "he_uniform": He("uniform"),
    "xavier": Xavier(),
    "xavier_uniform": Xavier("uniform"),
    "random": Random(),
    "random_uniform": Random("uniform"),
}
"""Initialisers with default arguments, by name. Options, messages and models take their choices from here."""


def from_name(name: str) -> Initializer:
    """The initialiser called `name`, with default arguments.

    Raises:
        ConfigError: unknown name; the message lists the valid ones.
    """
    _check_choice("init", name, tuple(INITIALIZERS))
    return INITIALIZERS[name]
