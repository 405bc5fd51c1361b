"""Optimisers, learning-rate schedules and weight averaging: everything that changes a model's parameters."""

from gpunet.optim import schedules
from gpunet.optim.ema import WeightAverage
from gpunet.optim.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, create
from gpunet.optim.schedules import SCHEDULES

__all__ = ["OPTIMIZERS", "SCHEDULES", "SGD", "Adam", "AdamW", "Optimizer", "WeightAverage", "create", "schedules"]
