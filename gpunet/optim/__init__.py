"""Optimisers, learning-rate schedules and weight averaging: everything that changes a model's parameters."""

from __future__ import annotations

from gpunet.errors import ConfigError
from gpunet.optim import schedules
from gpunet.optim.ema import WeightAverage
from gpunet.optim.optimizers import SGD, Adam, AdamW, Optimizer

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "WeightAverage", "create", "schedules"]


def create(name: str, *, momentum: float, nesterov: bool, beta1: float, beta2: float, weight_decay: float) -> Optimizer:
    """The optimiser called `name` ("sgd", "adam", "adamw"), with those of the options that it has.

    Raises:
        ConfigError: there is no such optimiser, or an option is out of range.
    """
    if name == "sgd":
        return SGD(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    if name == "adam":
        return Adam(beta1=beta1, beta2=beta2, weight_decay=weight_decay)
    if name == "adamw":
        return AdamW(beta1=beta1, beta2=beta2, weight_decay=weight_decay)
    raise ConfigError(f"unknown optimizer {name!r}: expected sgd, adam or adamw")
