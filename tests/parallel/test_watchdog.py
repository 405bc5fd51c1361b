"""A rank that waits in vain says so and ends; one that gets answers does not."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from gpunet.errors import ConfigError
from gpunet.parallel.watchdog import DEFAULT, Watchdog, timeout


def test_a_wait_in_vain_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    with Watchdog(0, 0.05, ended.set).waiting():
        assert ended.wait(10)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and record.getMessage().startswith("rank 0 has waited 0.05 seconds for the")


def test_many_short_waits_do_not() -> None:
    """Together longer than the limit, each far below it."""
    ended = threading.Event()
    watchdog = Watchdog(0, 1.0, ended.set)
    limit = time.monotonic() + 1.3
    while time.monotonic() < limit:
        with watchdog.waiting():
            time.sleep(0.01)
    assert not ended.is_set()


def test_the_limit() -> None:
    assert timeout({}) == DEFAULT and timeout({"GPUNET_RANK_TIMEOUT": "2.5"}) == 2.5
    for given in ("soon", "0", "-1", "nan", "inf"):
        with pytest.raises(ConfigError, match=f"must be a positive number of seconds, got '{given}'"):
            timeout({"GPUNET_RANK_TIMEOUT": given})
