"""Bound methods that do not keep what they are bound to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def weakly(method: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """The bound `method`, as a function for somebody whom its object holds: without a cycle of references."""
    reference = weakref.WeakMethod(method)

    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        alive = reference()
        assert alive is not None, "only its object calls it"
        return alive(*args, **kwargs)

    return call
