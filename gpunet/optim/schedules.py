"""Learning-rate schedules: the rate as a function of the number of steps done; see :data:`gpunet.optim.SCHEDULES`.

They are stateless, so a resumed training continues exactly. The one exception is :class:`ReduceOnPlateau`, whose state
is saved in the checkpoint. Per-epoch schedules change the rate every `steps_per_epoch` steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from gpunet.checks import check_int, check_number
from gpunet.errors import CheckpointError
from gpunet.optim._registry import look_up, select


class Schedule:
    """Base class of all schedules.

    Args:
        lr: initial learning rate; for Cosine and OneCycle, the peak.
        total_steps: optimiser steps in the whole training.
        steps_per_epoch: optimiser steps per epoch.

    Raises:
        ConfigError: an argument is out of range.

    >>> class Halved(gn.optim.schedules.Schedule):
    ...     def lr(self, step):
    ...         return self.peak if step < self.total_steps // 2 else self.peak / 2
    >>> schedule = Halved(0.5, total_steps=4, steps_per_epoch=1)
    >>> [schedule.lr(step) for step in range(4)]
    [0.5, 0.5, 0.25, 0.25]
    """

    options: ClassVar[Mapping[str, str]] = {}
    """Training options that the constructor takes, mapped to the names of its arguments."""

    def __init__(self, lr: float, *, total_steps: int, steps_per_epoch: int) -> None:
        self.peak = check_number("lr", lr, low=0, low_open=True)
        self.total_steps = check_int("total_steps", total_steps, low=1)
        self.steps_per_epoch = check_int("steps_per_epoch", steps_per_epoch, low=1)

    def lr(self, step: int) -> float:
        """The learning rate of update number `step`, 0 for the first.

        Past the end of the training it is the final value of the schedule.
        """
        raise NotImplementedError

    def observe(self, validation_loss: float) -> None:
        """Called once after each epoch; only :class:`ReduceOnPlateau` uses it."""

    def state(self) -> dict[str, Any]:
        """State to save in a checkpoint, as JSON-serialisable values."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved :meth:`state`.

        Raises:
            CheckpointError: `state` is that of a different schedule.
        """
        if state.keys() != self.state().keys():
            raise CheckpointError(
                f"the checkpoint's learning-rate schedule has state {', '.join(sorted(state)) or 'none'}, "
                f"{type(self).__name__} has {', '.join(self.state()) or 'none'}: resume with the schedule of that run"
            )


class Constant(Schedule):
    """Constant learning rate.

    >>> gn.optim.schedules.Constant(0.5, total_steps=4, steps_per_epoch=1).lr(3)
    0.5
    """

    def lr(self, step: int) -> float:
        return self.peak


class Step(Schedule):
    """Multiplies the learning rate by `factor` every `epochs` epochs (torch.optim.lr_scheduler.StepLR).

    >>> schedule = gn.optim.schedules.Step(1, total_steps=6, steps_per_epoch=1, epochs=2, factor=0.5)
    >>> [schedule.lr(step) for step in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    options: ClassVar[Mapping[str, str]] = {"lr_step": "epochs", "lr_factor": "factor"}

    def __init__(
        self, lr: float, *, total_steps: int, steps_per_epoch: int, epochs: int = 10, factor: float = 0.5
    ) -> None:
        super().__init__(lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.epochs = check_int("epochs", epochs, low=1)
        self.factor = _check_factor(factor)

    def lr(self, step: int) -> float:
        return self.peak * self.factor ** (step // self.steps_per_epoch // self.epochs)


class Exponential(Schedule):
    """Multiplies the learning rate by `factor` every epoch (torch.optim.lr_scheduler.ExponentialLR).

    >>> schedule = gn.optim.schedules.Exponential(1, total_steps=3, steps_per_epoch=1, factor=0.5)
    >>> [schedule.lr(step) for step in range(3)]
    [1.0, 0.5, 0.25]
    """

    options: ClassVar[Mapping[str, str]] = {"lr_factor": "factor"}

    def __init__(self, lr: float, *, total_steps: int, steps_per_epoch: int, factor: float = 0.5) -> None:
        super().__init__(lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.factor = _check_factor(factor)

    def lr(self, step: int) -> float:
        return self.peak * self.factor ** (step // self.steps_per_epoch)


class ReduceOnPlateau(Schedule):
    """Multiplies the learning rate by `factor` if the validation loss has not improved for more than `patience` epochs.

    As torch.optim.lr_scheduler.ReduceLROnPlateau with its defaults: only a loss below ``1 - 1e-4`` times the best
    counts as an improvement, NaN never does, the count restarts after a reduction, and reductions of less than 1e-8 are
    skipped.

    >>> schedule = gn.optim.schedules.ReduceOnPlateau(1, total_steps=9, steps_per_epoch=3, patience=0)
    >>> schedule.observe(0.7)
    >>> schedule.observe(0.7)  # no better
    >>> schedule.lr(6)
    0.5
    """

    options: ClassVar[Mapping[str, str]] = {"lr_patience": "patience", "lr_factor": "factor"}
    threshold = 1e-4
    smallest_change = 1e-8

    def __init__(
        self, lr: float, *, total_steps: int, steps_per_epoch: int, patience: int = 3, factor: float = 0.5
    ) -> None:
        super().__init__(lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.patience = check_int("patience", patience)
        self.factor = _check_factor(factor)
        self._lr = self.peak
        self._best: float | None = None
        self._bad_epochs = 0

    def lr(self, step: int) -> float:
        return self._lr

    def observe(self, validation_loss: float) -> None:
        best = math.inf if self._best is None else self._best
        if validation_loss < best * (1 - self.threshold):
            self._best, self._bad_epochs = float(validation_loss), 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs > self.patience:
            self._bad_epochs = 0
            reduced = self._lr * self.factor
            if self._lr - reduced > self.smallest_change:
                self._lr = reduced

    def state(self) -> dict[str, Any]:
        return {"lr": self._lr, "best": self._best, "bad_epochs": self._bad_epochs}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._lr, self._best, self._bad_epochs = state["lr"], state["best"], state["bad_epochs"]


class Cosine(Schedule):
    """Cosine annealing from the peak to 0, after a linear warm-up.

    The cosine is that of Loshchilov & Hutter 2017 (arXiv:1608.03983, equation 5) without restarts, as in
    torch.optim.lr_scheduler.CosineAnnealingLR. The warm-up (Goyal et al. 2017, arXiv:1706.02677, section 2.2) takes
    w = round(warmup * total_steps) steps at rates of 1/(w+1), 2/(w+1) ... w/(w+1) of the peak, so that the first update
    is not wasted and the one after the warm-up uses the peak.

    >>> schedule = gn.optim.schedules.Cosine(1, total_steps=8, steps_per_epoch=1, warmup=0.25)
    >>> [round(schedule.lr(step), 3) for step in (0, 1, 2, 5, 8)]
    [0.333, 0.667, 1.0, 0.5, 0.0]
    """

    options: ClassVar[Mapping[str, str]] = {"warmup": "warmup"}

    def __init__(self, lr: float, *, total_steps: int, steps_per_epoch: int, warmup: float = 0.0) -> None:
        super().__init__(lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.warmup_steps = round(_check_warmup(warmup) * self.total_steps)

    def lr(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        return _cosine(self.peak, 0.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))


class OneCycle(Schedule):
    """The one-cycle policy, a rise to the peak and a long descent: Smith & Topin 2018 (arXiv:1708.07120), section 4.

    Both are half a cosine where the paper has straight lines, as is the default of torch.optim.lr_scheduler.OneCycleLR:
    from peak/25 to the peak over the first `warmup` fraction of the steps, then down to peak/1e4 at the last one.

    >>> schedule = gn.optim.schedules.OneCycle(1, total_steps=10, steps_per_epoch=1, warmup=0.3)
    >>> [round(schedule.lr(step), 4) for step in (0, 2, 9)]
    [0.04, 1.0, 0.0001]
    """

    options: ClassVar[Mapping[str, str]] = {"warmup": "warmup"}
    start_divisor = 25.0
    end_divisor = 1e4

    def __init__(self, lr: float, *, total_steps: int, steps_per_epoch: int, warmup: float = 0.2) -> None:
        super().__init__(lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.top = max(0.0, _check_warmup(warmup) * self.total_steps - 1)
        """The step of the peak, possibly fractional."""

    def lr(self, step: int) -> float:
        if step < self.top:
            return _cosine(self.peak / self.start_divisor, self.peak, step / self.top)
        descent = (self.total_steps - 1 - self.top) or 1.0  # 0 in a training of one step
        return _cosine(self.peak, self.peak / self.end_divisor, (step - self.top) / descent)


def _check_factor(factor: float) -> float:
    return check_number("factor", factor, low=0, high=1, low_open=True)


def _check_warmup(warmup: float) -> float:
    return check_number("warmup", warmup, low=0, high=1, high_open=True)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
    "plateau": ReduceOnPlateau,
    "cosine": Cosine,
    "one_cycle": OneCycle,
}
"""Classes by name. Options and messages take their choices from here."""


def create(name: str, *, lr: float, total_steps: int, steps_per_epoch: int, **options: Any) -> Schedule:
    """The schedule called `name`, with those of the `options` that it takes; the others are ignored.

    Raises:
        ConfigError: there is no such schedule, one of its options is missing, or one is out of range.

    >>> gn.optim.schedules.create("exponential", lr=1, total_steps=9, steps_per_epoch=3, lr_factor=0.5).lr(3)
    0.5
    """
    owner = look_up("schedule", name, SCHEDULES)
    chosen = select("schedule", name, owner.options, options)
    return owner(lr, total_steps=total_steps, steps_per_epoch=steps_per_epoch, **chosen)
