"""Progress of a sweep: a live bar on a terminal, otherwise a plain line per finished trial."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from gpunet.sweep.table import Row
from gpunet.text import printable
from gpunet.training.metrics import METRICS

if TYPE_CHECKING:
    from rich.console import Console


class SweepProgress(contextlib.AbstractContextManager["SweepProgress"]):
    """Counts trials and epochs; the time left is estimated from the remaining epochs and the speed since the start.

    Args:
        console: a rich console, by default one on stderr.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False, quiet=quiet)
        self._started = time.perf_counter()
        self._trials = self._finished = self._failed = 0
        self._epochs = self._epochs_over = self._epochs_run = 0
        self._running: dict[int, int] = {}  # epochs of each running trial
        self._best: float | None = None
        self._best_text = ""

    def __enter__(self) -> SweepProgress:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}")
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._bar.start()
        self._task = self._bar.add_task("sweep", total=None, status="")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def add(self, epochs: int) -> None:
        """Add a trial of at most `epochs` epochs."""
        self._trials += 1
        self._epochs += epochs

    def epochs(self, trial: int, count: int) -> None:
        """The running `trial` has finished `count` epochs since it was started or resumed."""
        known = self._running.get(trial, 0)
        if count > known:
            self._running[trial] = count
            self._epochs_run += count - known
        self.show()

    def over(self, row: Row, epochs: int, *, before: bool = False) -> None:
        """A trial of at most `epochs` epochs is finished; `before`: in an earlier call, or without any training."""
        self._running.pop(row.trial, None)
        self._epochs_over += epochs
        self._finished += 1
        outcome = row.outcome
        self._failed += not outcome.ok
        if outcome.ok and outcome.value is not None:
            metric = METRICS[outcome.metric or "accuracy"]()
            if metric.is_better(outcome.value, self._best):
                self._best = outcome.value
                self._best_text = metric.text(outcome.value)
            text = f"validation {metric.name} {metric.text(outcome.value)}  {outcome.seconds or 0:.0f} s"
        else:
            text = f"failed: {outcome.error}"
        if not before or not outcome.ok:
            values = "  ".join(f"{axis}: {value}" for axis, value in row.values.items())
            left = f"  {time_text(self.seconds_left())} left" if self._finished < self._trials else ""
            counter = f"{self._finished:>{len(str(self._trials))}}/{self._trials}"
            line = f"{counter} trials  {values}  seed {row.seed}  {text}{left}"
            self.console.print(printable(line), soft_wrap=True, markup=False)
        self.show()

    def seconds_left(self) -> float | None:
        """The estimated time left; None while the speed is unknown."""
        if not self._epochs_run:
            return None
        left = self._epochs - self._epochs_over - sum(self._running.values())
        return (time.perf_counter() - self._started) / self._epochs_run * max(left, 0)

    def show(self) -> None:
        """Update the bar."""
        parts = [f"{self._failed} failed"] if self._failed else []
        parts += [f"best {self._best_text}"] if self._best is not None else []
        parts.append(f"{time_text(self.seconds_left())} left")
        self._bar.update(
            self._task,
            total=self._epochs,
            completed=self._epochs_over + sum(self._running.values()),
            description=f"{self._finished}/{self._trials} trials",
            status="  ".join(parts),
        )


def time_text(seconds: float | None) -> str:
    """For example ``2.5 h``, ``12 min`` or ``40 s``; a question mark for None."""
    if seconds is None:
        return "?"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
