"""What the reference implementations share."""

from __future__ import annotations

import numpy as np


def stored(result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """`result`, written into `out` if that is given."""
    if out is None:
        return result
    out[...] = result
    return out
