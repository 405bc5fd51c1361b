"""One trial on a worker, whichever engine has started it: an order in, a report out."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gpunet import __version__
from gpunet.data.config import DataConfig
from gpunet.errors import ConfigError
from gpunet.experiments.config import from_toml
from gpunet.experiments.prepare import RunData, prepare
from gpunet.files import make_folder, write_bytes_atomic
from gpunet.sweep.table import FAILED, Outcome
from gpunet.sweep.trial import OUTCOME, drop_checkpoints, run_trial, write_outcome

if TYPE_CHECKING:
    from gpunet.training.history import Record

TOKEN = ".workplace"
"""The file of a sweep's folder by which a worker sees that it shares the folder with the parent."""


@dataclass(frozen=True)
class Order:
    """A trial to run."""

    config: str
    """All its settings, as TOML."""
    home: str
    """The folder of the sweep, as its parent calls it."""
    folder: str
    """The trial's folder, relative to `home`."""
    device: str | None = None
    shared_cnn: str | None = None
    """For a hybrid: where its trained CNN is, or will be; relative to `home`."""
    token: str = ""
    """What the file TOKEN of `home` says; empty: the worker is on the parent's machine."""
    keep_best: bool = False
    """Whether the best weights are to come back with the other files."""
    version: str = __version__


@dataclass(frozen=True)
class Report:
    """The outcome of a trial; what the library warned of; the files, by relative path, that the parent cannot see."""

    outcome: Outcome
    warnings: list[str] = field(default_factory=list)
    files: dict[str, bytes] | None = None


def run_order(order: Order, data: RunData | None = None) -> Report:
    """Run the trial; a worker without access to the folder of the sweep trains in a temporary one.

    Args:
        data: of the trial; by default they are read here, once for all trials of a process that agree on them.

    Raises:
        ConfigError: this worker has another version of gpunet than the parent.
        DataError, DeviceError, OutputError: as :func:`gpunet.sweep.trial.run_trial`.
        CancelledError: nobody waits for this trial any longer.
    """
    if order.version != __version__:
        raise ConfigError(
            f"a worker has gpunet {__version__}, the sweep {order.version}: install the same version on all machines"
        )
    with _warnings() as found, _abandoned():
        if order.token and not _sees(Path(order.home), order.token):
            with tempfile.TemporaryDirectory(prefix="gpunet-trial-") as name:
                folder = Path(name)
                outcome = _run(order, folder, None, data)
                drop_checkpoints(folder, keep_best=order.keep_best)
                return Report(outcome, found, _contents(folder))
        home = Path(order.home)
        shared = home / order.shared_cnn if order.shared_cnn else None
        return Report(_run(order, home / order.folder, shared, data), found)


def store(report: Report, folder: Path) -> None:
    """Write the files of a trial that was run out of sight; the outcome, which marks it as finished, comes last."""
    for name, content in sorted((report.files or {}).items(), key=lambda item: item[0] == OUTCOME):
        path = folder / name
        make_folder(path.parent)
        write_bytes_atomic(path, content)


class _Abandoned(BaseException):
    """Nobody waits for the running trial any longer. Not an Exception, which would be an outcome of the trial."""


def after_epoch(record: Record) -> None:
    """Called after each epoch of a trial: stops it if its result was given up."""
    if "distributed.worker" not in sys.modules:
        return
    from distributed import get_worker
    from distributed.worker import thread_state

    try:
        task = get_worker().state.tasks.get(thread_state.key)
    except (ValueError, AttributeError):  # not a task of Dask
        return
    if task is not None and task.state == "cancelled":
        raise _Abandoned


@contextlib.contextmanager
def _abandoned() -> Iterator[None]:
    try:
        yield
    except _Abandoned:
        raise CancelledError from None


def _run(order: Order, folder: Path, shared_cnn: Path | None, data: RunData | None) -> Outcome:
    config = from_toml(order.config)
    try:
        data = data or _prepared(config.data)
    except ConfigError as error:  # the settings do not fit the data: those of other trials may
        outcome = Outcome(FAILED, error=str(error))
        write_outcome(folder, outcome)
        return outcome
    return run_trial(
        config,
        folder,
        device=order.device,
        data=data,
        shared_cnn=shared_cnn,
        on_epoch=lambda record: after_epoch(record),
    )


@functools.lru_cache(maxsize=1)
def _prepared(config: DataConfig) -> RunData:
    return prepare(config)


def _sees(home: Path, token: str) -> bool:
    try:
        return (home / TOKEN).read_text(encoding="utf-8") == token
    except OSError:
        return False


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the library warns of inside the block, each once."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (message := record.getMessage()) not in found:
                found.append(message)

    library, handler = logging.getLogger("gpunet"), Collect(logging.WARNING)
    library.addHandler(handler)
    try:
        yield found
    finally:
        library.removeHandler(handler)
