"""What is packed: parts of a data set whose images are read block by block, more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Blocks = Callable[[], Iterator[np.ndarray]]
"""Reads the images of a part from the start, in blocks (k, H, W, C) of numbers of any type, k >= 1."""

BLOCK_BYTES = 1 << 22
"""Of images that are read at a time; at least one image."""


@dataclass(frozen=True)
class SourcePart:
    """A part of a data set: its labels in memory, its images in blocks."""

    labels: np.ndarray
    """As they were read; :func:`gpunet.data.classes.encode` takes them."""
    blocks: Blocks
    source: str
    """Where the part comes from, for messages."""


@dataclass(frozen=True)
class Source:
    """A data set to be packed."""

    parts: dict[str, SourcePart]
    """``train`` and, if they are there, ``validation`` and ``test``."""
    class_names: tuple[str, ...] | None = None
    eight_bits: bool = False
    """Whether the values are known to range from 0 to 255, whatever is among them."""


def rows_of(image_bytes: int) -> int:
    """How many images a block has."""
    return max(1, BLOCK_BYTES // max(1, image_bytes))
