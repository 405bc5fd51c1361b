"""What the ranks of a training tell each other beside their gradients; see :mod:`gpunet.parallel`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpunet.errors import ConfigError
from gpunet.parallel.communicator import Communicator
from gpunet.parallel.launch import check_alike
from gpunet.training.checkpoint import digest
from gpunet.training.description import versions
from gpunet.training.interrupt import Interrupts

if TYPE_CHECKING:
    from gpunet.training.trainer import Trainer


def agreed(communicator: Communicator, interrupts: Interrupts, save: bool) -> tuple[int | None, bool]:
    """The signal that has arrived on any rank, and whether to save, which is up to rank 0: the same on all ranks.

    A signal that arrives after this must wait for the next call: the other ranks do not know of it.
    """
    if communicator.size == 1:
        return interrupts.number, save
    found = communicator.exchange((interrupts.number, save))
    return next((number for number, _ in found if number is not None), None), found[0][1]


def check_start(trainer: Trainer) -> None:
    """Before the first step: all ranks do the same from the same weights on.

    Raises:
        ConfigError: they do not; the message names what differs.
    """
    if trainer.communicator.size > 1:
        kind = {"kind of device": trainer.backend.implementation, "number of epochs": trainer.config.epochs}
        start = {"number of finished steps": trainer.step, "weights at the start": digest(trainer.flat.state_dict())}
        check_alike(trainer.communicator, {**versions(), **kind, **trainer.identity, **start})


def check_weights(trainer: Trainer) -> None:
    """After an epoch: the weights are the same everywhere. If a callback has stopped one rank, all stop.

    Raises:
        ConfigError: they are not.
    """
    if trainer.communicator.size > 1:
        found = trainer.communicator.exchange((trainer.stop, digest(trainer.flat.state_dict())))
        trainer.stop = any(stop for stop, _ in found)
        others = [rank for rank, (_, weights) in enumerate(found) if weights != found[0][1]]
        if others:
            raise ConfigError(
                f"after epoch {trainer.epoch} the weights of rank {others[0]} are not those of rank 0: their "
                "processors or libraries round differently. Train on machines of one kind, with the same versions"
            )
