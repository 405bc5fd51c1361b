"""What is captured: one recording at a time, which the arrays and the runtime both know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.emulator.build import EmulationError


@dataclass
class Recording:
    """A captured step."""

    work: list[Callable[[], None]] = field(default_factory=list)
    """Launches and memsets, in order."""
    owned: list[Any] = field(default_factory=list)
    """Arrays allocated while capturing: the graph's own, of which nothing survives from one replay to the next."""
    used: list[Any] = field(default_factory=list)
    """Arguments of the launches, which must live as long as the graph."""


current: Recording | None = None


def forbid(what: str) -> None:
    """Raise if a graph is being captured: `what` would not be part of it."""
    if current is not None:
        raise EmulationError(f"{what} is not allowed while a graph is captured")
