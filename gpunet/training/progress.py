"""Training progress on stderr: a live bar on a terminal, otherwise, as in a notebook, a plain line per epoch."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from gpunet.training.callbacks import Callback

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

    from gpunet.training.history import Record
    from gpunet.training.trainer import Trainer


def is_watched() -> bool:
    """Whether somebody sees the standard error as it is written: it is a terminal, or that of a notebook."""
    if "IPython" not in sys.modules and not (sys.stderr is not None and sys.stderr.isatty()):
        return False
    from rich.console import Console

    console = Console(stderr=True)
    return console.is_terminal or console.is_jupyter


class Progress(Callback):
    """Shows epoch, images/s, time left, loss and learning rate, with one line kept per epoch, and kernel compilation.

    Args:
        console: a rich console; by default one on stderr.
        title: shown before the epoch, e.g. the stage of a pipeline.

    >>> loader = gn.data.Loader(np.uint8([0, 255] * 50).reshape(100, 1, 1, 1), [0, 1] * 50)
    >>> model, config = gn.models.MLP((1, 2)).initialize(seed=0), gn.training.TrainingConfig(epochs=1)
    >>> callbacks = [gn.training.Progress(title="a test,")]
    >>> trainer = gn.training.Trainer(model, config, train=loader, validation=loader, callbacks=callbacks)
    >>> history = trainer.fit()  # on stderr: a test, epoch 1/1  train loss ...
    """

    def __init__(self, console: Console | None = None, *, title: str = "") -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False)
        self.title = f"{title} " if title else ""
        self._exit = contextlib.ExitStack()
        self._bar: Bar | None = None
        self._compiled = 0

    def on_train_start(self, trainer: Trainer) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._started = time.perf_counter()
        self._compiled, self._announced, self._at_first_step = 0, False, True
        self._first = self._timed_from = trainer.step
        self._timed_since = self._started
        self._exit = contextlib.ExitStack()
        self._exit.enter_context(trainer.backend.watch_compilation(self._on_compile))
        if self.console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}")
            self._bar = Bar(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            total = trainer.config.epochs * trainer.steps_per_epoch - trainer.step
            self._task = self._bar.add_task(f"{self.title}starting", total=total, status="")
            self._exit.enter_context(self._bar)

    def _on_compile(self, name: str) -> None:
        self._compiled += 1
        if not self._announced:
            self._announced = True
            self.console.print("preparing kernels: compiled once, then loaded from the cache on disk", soft_wrap=True)
        if self._bar is not None:
            self._bar.update(self._task, status=f"preparing kernel {self._compiled}: {name}")
        elif self._compiled % 10 == 0:
            self.console.print(f"preparing kernel {self._compiled}: {name}", soft_wrap=True)

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        self._epoch, self._epoch_started, self._shown = epoch, time.perf_counter(), 0.0
        self._epoch_first = trainer.step % trainer.steps_per_epoch  # steps before it was resumed

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        now = time.perf_counter()
        if self._at_first_step:
            self._at_first_step = False
            self._timed_since, self._timed_from = now, trainer.step
            if self._compiled:
                seconds = now - self._started
                self.console.print(f"prepared {self._compiled} kernels, first step after {seconds:.1f} s")
        if self._bar is None or (now - self._shown < 0.2 and step < trainer.steps_per_epoch):
            return
        self._shown = now
        rate = (step - self._epoch_first) * trainer.batch_size / (now - self._epoch_started)
        self._bar.update(
            self._task,
            completed=trainer.step - self._first,
            description=f"{self.title}epoch {self._epoch}/{trainer.config.epochs}",
            status=f"{rate:,.0f} images/s  loss {loss:.4f}  lr {trainer.lr:.2e}",
        )

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        epochs = trainer.config.epochs
        trained = f" accuracy {record['train_accuracy']:.2%}" if "train_accuracy" in record else ""
        measured = [(metric.name, metric.text(record[f"validation_{metric.name}"])) for metric in trainer.metrics]
        scores = " ".join(f"{name} {text}" for name, text in measured)
        self.console.print(
            f"{self.title}epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  "
            f"train loss {record['train_loss']:.4f}{trained}  "
            f"validation loss {record['validation_loss']:.4f} {scores}  "
            f"lr {record['lr']:.1e}  {record['images_per_second']:,.0f} images/s  "
            f"{self._seconds_left(trainer, record) / 60:.1f} min left",
            soft_wrap=True,
        )

    def _seconds_left(self, trainer: Trainer, record: Record) -> float:
        """By the time since the first step, in which kernels were compiled; by the epoch's if nothing came after it."""
        epochs = trainer.config.epochs
        done = trainer.step - self._timed_from
        if not done:
            return float((epochs - record["epoch"]) * record["seconds"])
        left = epochs * trainer.steps_per_epoch - trainer.step
        return (time.perf_counter() - self._timed_since) * left / done

    def on_train_end(self, trainer: Trainer) -> None:
        self._exit.close()
        self._bar = None
