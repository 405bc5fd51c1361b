"""Callbacks: hooks that the trainer calls during training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpunet.training.history import Record
    from gpunet.training.trainer import Trainer


class Callback:
    """Base class of all callbacks: the methods do nothing unless overridden.

    Set ``trainer.stop = True`` to end training after the current epoch. Whatever a callback must keep when a run is
    stopped and resumed goes into :meth:`state`.

    >>> class Announce(gn.training.Callback):
    ...     def on_epoch_end(self, trainer, record):
    ...         print("epoch", record["epoch"], "of", trainer.config.epochs)
    >>> loader = gn.data.Loader(np.uint8([0, 255] * 50).reshape(100, 1, 1, 1), [0, 1] * 50)
    >>> model, config = gn.models.MLP((1, 2)).initialize(seed=0), gn.training.TrainingConfig(epochs=2)
    >>> trainer = gn.training.Trainer(model, config, train=loader, validation=loader, callbacks=[Announce()])
    >>> history = trainer.fit()
    epoch 1 of 2
    epoch 2 of 2
    """

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first epoch of this call of :meth:`Trainer.fit`."""

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        """Before the first step of `epoch`, counted from 1, and when it goes on after it was resumed within it."""

    def on_step(self, trainer: Trainer, step: int, loss: float) -> None:
        """After a step, counted from 1 within its epoch, with the mean loss of the epoch so far.

        On the CPU after each step; on a GPU, where reading the loss means waiting, after every 50th and the last one.
        """

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        """After validation, with the record of the epoch."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last epoch, and also when an exception ends the training."""

    def state(self) -> dict[str, Any]:
        """The state to save in a checkpoint, JSON-serialisable."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""


class EarlyStopping(Callback):
    """Stop when the metric that the trainer monitors has not improved for `patience` epochs.

    >>> loader = gn.data.Loader(np.uint8([0, 255] * 50).reshape(100, 1, 1, 1), [0, 1] * 50)
    >>> model = gn.models.MLP((1, 2)).initialize(seed=0)
    >>> config = gn.training.TrainingConfig(epochs=10, lr=1e-9)  # nothing gets any better
    >>> callbacks = [gn.training.EarlyStopping(patience=3)]
    >>> trainer = gn.training.Trainer(model, config, train=loader, validation=loader, callbacks=callbacks)
    >>> len(trainer.fit().records)  # the first epoch is the best, and three others are no better
    4
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: float | None = None
        self.waited = 0

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        score = record[f"validation_{trainer.monitor.name}"]
        if trainer.monitor.is_better(score, self.best):
            self.best, self.waited = score, 0
        else:
            self.waited += 1
            if self.waited >= self.patience:
                trainer.stop = True

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
