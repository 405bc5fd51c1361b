"""What a training minimises and what it reports: its loss and its metrics, and that they fit data and model."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.backend import Array, backend_of
from gpunet.data.loader import Loader
from gpunet.data.targets import TargetScaling
from gpunet.errors import ConfigError, DTypeError, ShapeError
from gpunet.nn import LOSSES, CrossEntropyLoss, ForwardContext, Layer, balanced_class_weights
from gpunet.nn.loss import Loss
from gpunet.options import did_you_mean
from gpunet.tasks import CLASSIFICATION, MULTILABEL, REGRESSION, TASKS
from gpunet.training.config import TrainingConfig
from gpunet.training.metrics import Metric, metrics_of, monitoring

DEFAULT_LOSSES = {CLASSIFICATION: "cross_entropy", REGRESSION: "mse", MULTILABEL: "bce_with_logits"}
"""By task."""


@dataclass(frozen=True)
class Objective:
    """A loss, and metrics of its task, of which the first is monitored."""

    loss: Loss
    metrics: tuple[Metric, ...]
    identity: dict[str, Any]
    """What must be the same when a training is resumed; empty for cross-entropy as configured, and accuracy."""

    @property
    def task(self) -> str:
        return self.loss.task

    @property
    def monitor(self) -> Metric:
        """The metric by which the best epoch is chosen."""
        return self.metrics[0]


def objective_of(
    config: TrainingConfig,
    loss: Loss | str | None,
    metrics: Sequence[str | Metric] | str | Metric | None,
    train: Loader,
    class_weights: Array | None,
) -> Objective:
    """The objective of a training on `train`: of the arguments, else of `config`, else the defaults.

    Raises:
        ConfigError: loss or metrics are unknown, given twice, or do not fit each other or the targets; or an option of
            `config` is one that this loss does not have.
    """
    if loss is not None and config.loss != "auto":
        raise ConfigError(f"the loss is given twice: to the Trainer, and as {config.loss} in its config")
    if metrics is not None and config.metric != "auto":
        raise ConfigError(f"the metrics are given twice: to the Trainer, and as {config.metric} in its config")
    asked = loss if loss is not None else (None if config.loss == "auto" else config.loss)
    if asked is None and train.outputs is not None:
        raise ConfigError(
            'the targets are numbers, so the Trainer needs a loss: loss="mse" or "huber" for a regression, or '
            '"bce_with_logits" for labels that each are 0 or 1'
        )
    if config.class_weights != "none" and train.outputs is not None:
        raise ConfigError(f"class_weights {config.class_weights} needs class indices, but the targets are numbers")
    settings = {"label_smoothing": config.label_smoothing, "weight": class_weights}
    made = loss_of(asked if asked is not None else "cross_entropy", settings)
    found = metrics_of(metrics if metrics is not None else monitoring(config.metric, made.task), made.task)
    check_targets(made, train)
    names = [metric.name for metric in found]
    as_ever = isinstance(made, CrossEntropyLoss) and _text(made) == _text(loss_of("cross_entropy", settings))
    identity = {} if as_ever and names == ["accuracy"] else {"loss": _text(made), "metrics": names}
    return Objective(made, found, identity)


def loss_of(given: Loss | str, settings: dict[str, Any] | None = None) -> Loss:
    """A loss by its name in :data:`gpunet.nn.LOSSES`, with those of the `settings` that are not off; or as it is.

    Raises:
        ConfigError: there is no such loss, it does not say its task, or it does not have one of the settings.
    """
    on = {name: value for name, value in (settings or {}).items() if hasattr(value, "dtype") or value}
    if isinstance(given, str):
        if given not in LOSSES:
            raise ConfigError(f"loss must be one of {', '.join(LOSSES)}; got {given!r}{did_you_mean(given, LOSSES)}")
        known = inspect.signature(LOSSES[given]).parameters
        _refuse([name for name in on if name not in known], f"the loss {given}")
        made: Loss = LOSSES[given](**on)
        return made
    if not callable(given) or getattr(given, "task", None) not in TASKS:
        raise ConfigError(
            f"a loss is a name of gpunet.nn.LOSSES or an object like those, whose task is one of {', '.join(TASKS)}; "
            f"got {type(given).__name__}"
        )
    _refuse(list(on), "a loss that is given as an object")
    return given


def check_gradient(loss: Loss, outputs: Array, gradient: Array, dtype: Any) -> None:
    """Check what a model and a loss of one's own hand to the backward pass.

    Raises:
        DTypeError: the outputs have another dtype than the parameters, or the gradient another than the outputs.
        ShapeError: the gradient has another shape than the outputs.
    """
    if outputs.dtype != dtype:
        raise DTypeError(
            f"the model's outputs are {outputs.dtype}, but its parameters {dtype}: its last layer must return "
            f"result.astype({dtype})"
        )
    name = f"the gradient of the loss {type(loss).__name__}"
    found = getattr(gradient, "dtype", type(gradient).__name__)
    if found != outputs.dtype:
        raise DTypeError(
            f"{name} is {found}, but the outputs are {outputs.dtype}: return gradient.astype(outputs.dtype) there"
        )
    if gradient.shape != outputs.shape:
        raise ShapeError(f"{name} has the shape {gradient.shape}, but the outputs {outputs.shape}: it needs the same")


def plain_loss(loss: Loss) -> Loss:
    """What is measured with: the loss, but cross-entropy without label smoothing and weights of classes."""
    return CrossEntropyLoss() if isinstance(loss, CrossEntropyLoss) else loss


def balanced_weights(model: Layer, train: Loader, dtype: Any) -> Array:
    """The weights that balance the classes of `train`, on the device."""
    image, _ = train.batch(0, 1)
    with train.backend.active():
        classes = model.forward(image, ForwardContext())[0].shape[-1]
    return train.backend.asarray(balanced_class_weights(train.backend.to_numpy(train.labels), classes), dtype)


def _refuse(names: list[str], whose: str) -> None:
    if names:
        shown = ", ".join("class_weights" if name == "weight" else name for name in names)
        raise ConfigError(f"{whose} does not take {shown} from the training's settings: leave this out")


def check_targets(loss: Loss, loader: Loader) -> None:
    """Raise ConfigError unless the targets of `loader` are of the kind that `loss` compares outputs with."""
    name = type(loss).__name__
    if (loss.task == CLASSIFICATION) != (loader.outputs is None):
        expected = "class indices, whole numbers (n,)" if loss.task == CLASSIFICATION else "numbers, floats (n, K)"
        given = "class indices" if loader.outputs is None else f"numbers {loader.targets.shape}"
        raise ConfigError(f"{name} takes {expected}, but the targets are {given}: choose another loss, or convert them")
    if loss.task == MULTILABEL and not ((loader.targets >= 0) & (loader.targets <= 1)).all():
        low, high = loader.targets.min(), loader.targets.max()
        raise ConfigError(f"{name} takes targets from 0 to 1, one for each label, but they lie in [{low:g}, {high:g}]")


def check_shardable(train: Loader, shards: int) -> None:
    """Raise ConfigError unless the mean of a batch follows from the means of its `shards` parts."""
    if shards > 1 and train.sample_weight is not None:
        raise ConfigError(f"rows with a sample_weight are trained in one shard, not in {shards}: train on one rank")


def prepare_targets(model: Layer, loss: Loss, train: Loader, *others: Loader) -> tuple[Loader, ...]:
    """The loaders with the targets that the network learns: for a regression, standardised.

    ``model.target_scaling`` is then that of the training targets, unless it has one of an earlier training.

    Raises:
        ConfigError: the loaders, or their targets and the outputs of the model, do not fit each other.
    """
    for loader in (train, *others):
        check_targets(loss, loader)
        if train.outputs != loader.outputs:
            raise ConfigError(f"the training targets are {train.outputs} numbers each, the others {loader.outputs}")
    try:
        outputs = model.output_shape(train.input_shape)
    except NotImplementedError:  # a layer of one's own need not say it
        outputs = None
    if train.outputs is not None and outputs not in (None, (train.outputs,)):
        raise ConfigError(f"the model's outputs {outputs} do not fit {train.outputs} target(s): build it with as many")
    if loss.task != REGRESSION:
        return train, *others
    if model.target_scaling is None:
        model.target_scaling = TargetScaling.of(train.targets)
    return tuple(loader.standardized(model.target_scaling) for loader in (train, *others))


def _text(loss: Loss) -> str:
    """The class of a loss and its settings, as a line."""
    settings = []
    for name, value in sorted(vars(loss).items()) if hasattr(loss, "__dict__") else []:
        if value is None or isinstance(value, (bool, int, float, str)):
            settings.append(f"{name}={value!r}")
        elif hasattr(value, "dtype"):
            host = np.ascontiguousarray(backend_of(value).to_numpy(value))
            settings.append(f"{name}={hashlib.sha256(host.tobytes()).hexdigest()[:16]}")
        else:
            settings.append(f"{name}={type(value).__name__}")
    return f"{type(loss).__name__}({', '.join(settings)})"
