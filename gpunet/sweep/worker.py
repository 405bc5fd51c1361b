"""A worker of a sweep: a process that runs one trial after another for its parent.

They exchange lines of JSON: orders on stdin, and ``{"event": "ready" | "epoch" | "warning" | "done" | "fatal"}`` on
stdout. When stdin ends, the parent has ended, for whatever reason: the worker then stops at once, even in the middle of
a step, and its trial is resumed later.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from gpunet.errors import ConfigError, GpunetError
from gpunet.experiments.config import from_toml
from gpunet.experiments.prepare import RunData, prepare
from gpunet.sweep.table import FAILED, Outcome
from gpunet.sweep.trial import run_trial, write_outcome


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which then ends this process
    # Output of libraries must not mix with the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(orders,), daemon=True).start()
    logging.getLogger("gpunet").addHandler(_Forward(events))
    _tell(events, event="ready")
    data: tuple[Any, RunData] | None = None
    while True:
        order = orders.get()
        try:
            config, folder = from_toml(order["config"]), Path(order["folder"])
            try:
                if data is None or data[0] != config.data:
                    data = config.data, prepare(config.data)
            except ConfigError as error:  # the settings do not fit the data: those of other trials may
                write_outcome(folder, Outcome(FAILED, error=str(error)))
                _tell(events, event="done", status=FAILED)
                continue
            outcome = run_trial(
                config,
                folder,
                device=order["device"],
                data=data[1],
                shared_cnn=Path(order["shared_cnn"]) if order["shared_cnn"] else None,
                on_epoch=lambda record: _tell(events, event="epoch", epoch=record["epoch"]),
            )
            _tell(events, event="done", status=outcome.status)
        except GpunetError as error:
            _tell(events, event="fatal", message=str(error), kind=type(error).__name__)


class _Forward(logging.Handler):
    """Tells the parent what the library warns of."""

    def __init__(self, events: TextIO) -> None:
        super().__init__(logging.WARNING)
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        _tell(self.events, event="warning", message=record.getMessage())


def _read(orders: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def _tell(events: TextIO, **event: Any) -> None:
    try:
        print(json.dumps(event), file=events, flush=True)
    except BrokenPipeError:  # the parent has ended, as the end of stdin would soon show
        os._exit(0)


if __name__ == "__main__":
    main()
