"""How exactly float32 products are computed on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from gpunet.errors import ConfigError

PRECISIONS = ("float32", "tf32")

_precision: ContextVar[str] = ContextVar("gpunet_precision", default="float32")


def precision() -> str:
    """``float32``: products as IEEE float32. ``tf32``: on tensor cores, operands rounded to 10 bits of mantissa."""
    return _precision.get()


@contextlib.contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Inside the block, compute the float32 products of convolutions and linear layers on a GPU in `name`.

    Raises:
        ConfigError: `name` is neither ``float32`` nor ``tf32``.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision must be {' or '.join(PRECISIONS)}, got {name!r}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)
