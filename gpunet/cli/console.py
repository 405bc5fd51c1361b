"""What the commands print, and how: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("gpunet")

_LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}


@contextmanager
def logging_on_stderr(verbosity: int) -> Iterator[None]:
    """Inside the block, gpunet's log goes to stderr: -1 warnings and errors, 0 what happens, 1 everything."""
    handler = _handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(_LEVELS[verbosity])
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _handler() -> logging.Handler:
    """rich on a terminal; plain lines in a file or a pipe, on a dumb terminal, and with ``NO_COLOR``."""
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.logging import RichHandler

        console = Console(stderr=True)
        return RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter())
    return handler


class _PlainFormatter(logging.Formatter):
    """The message alone; from warnings on, who says it and how bad it is."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"gpunet: {record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


def print_json(result: Mapping[str, Any]) -> None:
    """Print `result` as one line of strict JSON: a number that is not finite becomes null."""
    print(json.dumps(_finite(result), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def accuracy_line(split: str, correct: int, total: int) -> str:
    """Such as ``test accuracy 91.23 % (95 % interval 90.66-91.77)``, with Wilson's interval."""
    from gpunet.report.metrics import wilson_interval

    low, high = wilson_interval(correct, total)
    return f"{split} accuracy {100 * correct / total:.2f} % (95 % interval {100 * low:.2f}-{100 * high:.2f})"
