"""How a model was built: what a file needs beside its weights to build it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpunet.errors import ConfigError
from gpunet.nn.init import INITIALIZERS, Initializer
from gpunet.options import Options


@dataclass(frozen=True)
class Description:
    """The options of a model, the shape of its inputs and its number of classes.

    >>> description = gn.models.MLP((4, 3, 2)).description
    >>> description.config.hidden, description.input_shape, description.classes
    ((3,), (4,), 2)
    """

    config: Options
    input_shape: tuple[int, ...]
    """Of one image (H, W, C), or (F,) for features."""
    classes: int


def described(
    options: type[Options], input_shape: tuple[int, ...], classes: int, *, init: str | Initializer, **values: Any
) -> Description | None:
    """The description of a model made by its class; None if its `options` cannot say how: another initialiser, say."""
    name = init if isinstance(init, str) else next((key for key, one in INITIALIZERS.items() if one == init), None)
    if name is None:
        return None
    try:
        return Description(options(init=name, **values), input_shape, classes)  # type: ignore[call-arg]
    except ConfigError:
        return None
