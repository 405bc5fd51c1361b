"""Settings that fit the data: what ``gpunet train`` uses by default for data other than Fashion-MNIST."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from gpunet.data import Dataset
from gpunet.errors import ConfigError
from gpunet.experiments.config import RunConfig, section_of
from gpunet.experiments.prepare import AUGMENTATION, RunData, rescaled
from gpunet.models import MODELS, CNNConfig
from gpunet.tasks import CLASSIFICATION, REGRESSION

logger = logging.getLogger("gpunet")

FEW_TO_CHOOSE_BY = 1000
"""With fewer validation images, the best epoch is often the luckiest: the last one is kept instead."""


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How a kind of model is trained: the rate at a batch size, and the power of the batch size that it grows with."""

    updates: int
    epochs: tuple[int, int]
    lr: float
    batch_size: int
    power: float


# The rate of SGD grows with the batch size, that of Adam with its root (Malladi et al., "On the SDEs and Scaling Rules
# for Adaptive Gradient Algorithms", NeurIPS 2022).
_MLP = _Rule(updates=2000, epochs=(20, 200), lr=3e-3, batch_size=128, power=0.5)
_CNN = _Rule(updates=1500, epochs=(10, 60), lr=0.2, batch_size=256, power=1.0)


def recipe(config: RunConfig, train: Dataset, validation: int) -> dict[str, Any]:
    """Option -> value for training on `train`, a function of its size and kind, and of the number of validation images.

    The batch size is the power of two below a 20th of the images, from 16 to 256; the number of epochs makes up 2000
    updates (for an MLP, 20 to 200 epochs) or 1500 (with convolutions, 10 to 60); the learning rate is that of the
    default preset, scaled to the batch size. Nothing is augmented, as what leaves a class unchanged depends on the
    data, and inputs are standardised by channel, or by feature. For a table, half of the hidden units are dropped, and
    labels are not smoothed: with many features and few rows the presets of images overfit. A regression of a table
    drops a tenth and decays its weights, which begin smaller so that its outputs begin near the mean, and the best
    epoch is kept however few validation rows there are.
    """
    rule = _CNN if isinstance(config.model, CNNConfig) else _MLP
    batch_size = 2 ** int(np.clip(math.log2(max(len(train), 20) / 20), 4, 8))
    steps = max(1, len(train) // batch_size)
    found = {
        "batch_size": batch_size,
        "epochs": int(np.clip(math.ceil(rule.updates / steps), *rule.epochs)),
        "lr": float(f"{rule.lr * (batch_size / rule.batch_size) ** rule.power:.2g}"),
        "standardize": "channel",
        "flip": False,
        "alternate_flip": False,
        "shift": 0,
        "cutout": 0,
    }
    if train.is_table and rule is _MLP:
        found |= {"dropout": 0.5, "label_smoothing": 0.0}
    if train.task != CLASSIFICATION:
        found["label_smoothing"] = 0.0
    if train.task == REGRESSION:  # R2 of few rows is no lottery as the number of hits among them is
        if train.is_table and rule is _MLP and config.training.optimizer == "adamw":
            found |= {"dropout": 0.1, "weight_decay": 0.1, "init": "xavier_uniform"}
        return found
    return {**found, "keep": "last"} if validation < FEW_TO_CHOOSE_BY else found


def fit_recipe(config: RunConfig, data: RunData, given: Collection[str]) -> tuple[RunConfig, RunData]:
    """`config` with the :func:`recipe` for `data`, except for the options `given`; and the data scaled by it.

    Fashion-MNIST's own files keep their presets. What was chosen, and why, is logged.
    """
    if data.fashion_mnist:
        return config, data
    train, validation = data.split.train, len(data.split.validation)
    chosen = {name: value for name, value in recipe(config, train, validation).items() if name not in given}
    for section in ("data", "model", "training"):
        own = {name: value for name, value in chosen.items() if section_of(name, config.kind) == section}
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **own)})
    _explain(config, train, validation, chosen)
    return config, rescaled(data, dataclasses.replace(data.config, standardize=config.data.standardize))


def _explain(config: RunConfig, train: Dataset, validation: int, chosen: dict[str, Any]) -> None:
    training = config.training
    height, width, channels = train.image_shape
    what = f"rows of {channels} features" if train.is_table else f"images of {height} x {width} x {channels}"
    steps = max(1, len(train) // training.batch_size)
    reasons = {
        "batch_size": f"batch size {training.batch_size}, {steps} steps an epoch",
        "epochs": f"{training.epochs} epochs, {steps * training.epochs} updates",
        "lr": f"learning rate {training.lr:g} for this batch size",
        "dropout": f"dropout {getattr(config.model, 'dropout', 0):g}, label smoothing {training.label_smoothing:g}",
        "weight_decay": f"weight decay {training.weight_decay:g}",
        "init": f"initialisation {getattr(config.model, 'init', '')}",
        "keep": f"the last epoch is kept, as {validation} validation examples are few to choose by",
    }
    shown = [reason for name, reason in reasons.items() if name in chosen]
    if shown:
        logger.info("settings for %d %s: %s", len(train), what, "; ".join(shown))
    if not train.is_table and not any(getattr(config.data, name) for name in AUGMENTATION):
        logger.info("no augmentation: add --flip if mirrored images keep their class, --shift 1 if shifted ones do")


def check_model(config: RunConfig, data: RunData) -> None:
    """Raise ConfigError if the model needs images and the data are a table."""
    train, kind = data.split.train, MODELS[config.kind]
    if train.is_table and isinstance(config.model, CNNConfig):
        raise ConfigError(
            f"{kind.article} {kind.label} needs images, but {config.data.data} is a table with "
            f"{train.image_shape[2]} features: train an MLP, or, if they are the pixels of an image, give its height "
            "and width, such as --image-shape 28 28"
        )


def warn_of_mean(scores: Mapping[str, float]) -> None:
    """Warn if the numbers that are predicted explain no more than the mean of the targets would."""
    if scores.get("r2", 1.0) <= 0:
        logger.warning(
            "r2 is %.3g on the test examples: no better than always answering the mean of the targets; check the "
            "targets, or try more --epochs or another --lr",
            scores["r2"],
        )


def warn_of_majority(test: Dataset, correct: int) -> None:
    """Warn if `correct` predictions are no more than always answering the most common class would give."""
    counts = np.bincount(test.labels, minlength=test.classes)
    if correct <= counts.max():
        logger.warning(
            "%d of %d test examples are classified correctly: no more than by always answering %r, the most common "
            "class; check the labels, or try --class-weights balanced, more --epochs or another --lr",
            correct,
            len(test),
            test.class_names[int(counts.argmax())],
        )
