"""gpunet: small neural networks trained from scratch on NumPy and CuPy arrays, with hand-written kernels.

    import gpunet as gn

    train, test = gn.data.load("fashion-mnist")
    model = gn.models.MLP((784, 128, 64, 10), activation="gelu").initialize(seed=0)

The subpackages: :mod:`gpunet.ops` (maths on raw arrays), :mod:`gpunet.nn` (layers), :mod:`gpunet.models`,
:mod:`gpunet.optim`, :mod:`gpunet.data`, :mod:`gpunet.training`, :mod:`gpunet.experiments` (whole runs).
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpunet import data, experiments, models, nn, ops, optim, report, training
    from gpunet.devices import backend_of, get_backend, use_device

__version__ = "0.1.0"

logging.getLogger("gpunet").addHandler(logging.NullHandler())

_FROM_DEVICES = ("backend_of", "get_backend", "use_device")
_PARTS = ("data", "experiments", "models", "nn", "ops", "optim", "report", "training")

__all__ = [
    "__version__",
    "backend_of",
    "data",
    "experiments",
    "get_backend",
    "models",
    "nn",
    "ops",
    "optim",
    "report",
    "training",
    "use_device",
]


def __getattr__(name: str) -> Any:
    """Import a subpackage on first use, to keep ``import gpunet`` fast."""
    if name in _PARTS:
        return import_module(f"gpunet.{name}")
    if name in _FROM_DEVICES:
        return getattr(import_module("gpunet.devices"), name)
    raise AttributeError(f"module 'gpunet' has no attribute {name!r}")
