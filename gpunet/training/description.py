"""What a checkpoint says of its model, so that it can be used without the program that wrote it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from gpunet import __version__
from gpunet.data.loader import Loader
from gpunet.data.scaling import Scaling
from gpunet.errors import ConfigError
from gpunet.models.description import Description
from gpunet.models.registry import kind_of
from gpunet.nn import Layer
from gpunet.options import option_values
from gpunet.tasks import CLASSIFICATION
from gpunet.training.checkpoint import prefixed
from gpunet.training.config import TrainingConfig

logger = logging.getLogger("gpunet")

FEATURES = "features"
"""The entry ``inputs`` of a model without a scaling, whose inputs reach the network unchanged."""


def versions() -> dict[str, str]:
    """The versions of what trained or saved a model."""
    return {"gpunet": __version__, "python": platform.python_version(), "numpy": version("numpy")}


def description_of(model: Layer) -> Description:
    """How `model` was built.

    Raises:
        ConfigError: nothing says so: it is no model of :data:`gpunet.models.MODELS`.
    """
    if not isinstance(model.description, Description):
        raise ConfigError(
            f"this {type(model).__name__} does not say how it was built, so a file cannot hold it: make it by a class "
            "of gpunet.models, with registered activations and initialisers, or by gpunet.models.create"
        )
    kind_of(model.description.config)
    return model.description


def scaling_tensors(scaling: Scaling | None) -> dict[str, np.ndarray]:
    """The scaling as stored in a checkpoint."""
    return {} if scaling is None else prefixed("input", scaling.to_arrays())


def target_tensors(model: Layer) -> dict[str, np.ndarray]:
    """The scaling of the model's targets as stored in a checkpoint; empty if it has none."""
    return {} if model.target_scaling is None else prefixed("target", model.target_scaling.to_arrays())


def describe(
    found: Description, training: TrainingConfig | None, *, scaling: Scaling | None, **more: Any
) -> dict[str, Any]:
    """The metadata of a checkpoint of a model; `more` are entries that replace these.

    Args:
        training: how it was trained; None: of that, only the dtype is in `more`.
    """
    config = {"model": {"kind": kind_of(found.config).name, **option_values(found.config)}}
    if training is not None:
        config["training"] = option_values(training)
    facts = {
        "kind": kind_of(found.config).name,
        "config": config,
        "input_shape": list(found.input_shape),
        "class_names": [str(number) for number in range(found.classes)],
        "versions": versions(),
    }
    return {**facts, **({"inputs": FEATURES} if scaling is None else {}), **more}


def describe_training(
    model: Layer, config: TrainingConfig, train: Loader, class_names: Sequence[str] | None, task: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors for the checkpoints of a training that is given none; both empty if nothing describes them.

    Raises:
        ConfigError: there are not as many `class_names` as classes.
    """
    found = model.description
    if not isinstance(found, Description):
        return {}, {}
    try:
        scaling = train.scaling
    except ConfigError as error:
        logger.warning("the checkpoints will not say how to use the model: %s", error)
        return {}, {}
    shown: dict[str, Any] = {"input_shape": list(train.input_shape)}
    if task != CLASSIFICATION:
        shown["task"] = task
    if class_names is not None and len(class_names) != found.classes:
        raise ConfigError(
            f"the metadata have {len(class_names)} class_names for the {found.classes} classes of the model"
        )
    return describe(found, config, scaling=scaling, **shown), scaling_tensors(scaling)
