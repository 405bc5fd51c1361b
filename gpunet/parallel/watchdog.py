"""Ends a rank that waits in vain: MPI waits for ever, with all cores busy, for a machine that cannot be reached."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from gpunet.checks import check_number
from gpunet.errors import ConfigError

logger = logging.getLogger("gpunet")

VARIABLE = "GPUNET_RANK_TIMEOUT"
DEFAULT = 600.0
"""Seconds; what differs between ranks within a training takes less: compiling the kernels, writing a checkpoint."""

_OTHERS_LATER = 3.0
"""Seconds that ranks other than the first wait longer: where its end reaches them, it alone has spoken."""


def timeout(environment: Mapping[str, str] | None = None) -> float:
    """The number of seconds that a rank may wait for the others.

    Raises:
        ConfigError: the variable is no positive number.
    """
    given = (os.environ if environment is None else environment).get(VARIABLE, "")
    if not given:
        return DEFAULT
    try:
        return check_number(VARIABLE, float(given), low=0, low_open=True)
    except ValueError:  # of float, or a ConfigError
        raise ConfigError(f"{VARIABLE} must be a positive number of seconds, got {given!r}") from None


class Watchdog:
    """Ends this process after a wait of `seconds`.

    It counts its own rounds, not the time of a clock, so that a process that was stopped for a while goes on.
    """

    def __init__(self, rank: int, seconds: float, end: Callable[[], None] | None = None) -> None:
        self._rank, self._seconds = rank, seconds
        self._end = end or _end
        self._wait: object | None = None
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around each wait for the other ranks."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="gpunet-watchdog", daemon=True)
            self._thread.start()
        self._wait = object()
        try:
            yield
        finally:
            self._wait = None

    def _watch(self) -> None:
        limit = self._seconds + (_OTHERS_LATER if self._rank else 0)
        pause, seen, rounds = min(1.0, limit / 10), None, 0
        while True:
            time.sleep(pause)
            now = self._wait
            rounds = rounds + 1 if now is seen and now is not None else 0
            seen = now
            if rounds * pause >= limit:
                logger.error(
                    "rank %d has waited %g seconds for the others: one hangs, or its machine is out of reach. The run "
                    "can be resumed; %s sets another limit",
                    self._rank,
                    limit,
                    VARIABLE,
                )
                self._end()
                return


def _end() -> None:
    """At once: the thread that waits cannot be interrupted."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)
