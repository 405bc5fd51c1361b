"""Output of the commands: results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

from gpunet.text import printable

logger = logging.getLogger("gpunet")

_LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}


@contextmanager
def logging_on_stderr(verbosity: int) -> Iterator[None]:
    """Send gpunet's log to stderr inside the block; verbosity -1: warnings and errors, 0: also info, 1: also debug."""
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
    """rich on a terminal; plain lines in a file or a pipe, on a dumb terminal, or with ``NO_COLOR``."""
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.logging import RichHandler

        console = Console(stderr=True)
        rich = RichHandler(console=console, show_time=False, show_path=False, show_level=False, markup=False)
        rich.setFormatter(_PrintableFormatter())
        return rich
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter())
    return handler


class _PrintableFormatter(logging.Formatter):
    """The message alone, with what would control the terminal escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


class _PlainFormatter(_PrintableFormatter):
    """The message alone; warnings and errors are prefixed with ``gpunet`` and the level."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"gpunet: {record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


@contextmanager
def printable_stdout() -> Iterator[None]:
    """Inside the block, escape what is printed to stdout and would control the terminal."""
    with redirect_stdout(cast(Any, _Printable(sys.stdout))):
        yield


class _Printable:
    """A text stream that writes what is printable; all else is that of `stream`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text, lines=True))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def print_json(result: Mapping[str, Any]) -> None:
    """Print `result` as one line of strict JSON; non-finite numbers become null."""
    print(json.dumps(_finite(result), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def scores_line(split: str, scores: Mapping[str, float]) -> str:
    """For example ``test r2 0.8312, rmse 4.21``."""
    from gpunet.training.metrics import METRICS

    shown = (f"{name} {METRICS[name]().text(score) if name in METRICS else score}" for name, score in scores.items())
    return f"{split} {', '.join(shown)}"


def accuracy_line(split: str, correct: int, total: int) -> str:
    """For example ``test accuracy 91.23 % (95 % interval 90.66-91.77)``, with the Wilson interval."""
    from gpunet.report.metrics import wilson_interval

    low, high = wilson_interval(correct, total)
    return f"{split} accuracy {100 * correct / total:.2f} % (95 % interval {100 * low:.2f}-{100 * high:.2f})"
