"""Results for batches of no rows, on any device: no kernel is launched for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpunet.backend import Array
from gpunet.devices import backend_of
from gpunet.recording import run


def no_rows(shape: Sequence[int], like: Array, dtype: Any = None) -> Array:
    """A new array of `shape`, which has no elements, on the device of `like` and by default of its dtype."""
    return backend_of(like).empty(tuple(shape), like.dtype if dtype is None else dtype)


def no_sum(shape: Sequence[int], like: Array, out: Array | None = None, dtype: Any = None) -> Array:
    """A sum over no rows, such as the gradient of a parameter: zeros of `shape`, in `out` if given."""
    if out is None:
        return backend_of(like).zeros(tuple(shape), like.dtype if dtype is None else dtype)
    run(type(out).fill, out, 0)
    return out
