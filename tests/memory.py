"""How much memory a call takes."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """Assert that the block never holds more than `size` bytes beyond what was held before it, by tracemalloc."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        taken = tracemalloc.get_traced_memory()[1] - before
        assert taken <= size, f"took {taken} bytes, expected at most {size}"
    finally:
        if started:
            tracemalloc.stop()
