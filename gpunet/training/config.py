"""Options of training."""

from __future__ import annotations

from dataclasses import dataclass

from gpunet.backend import PRECISIONS
from gpunet.nn import LOSSES
from gpunet.optim import OPTIMIZERS, SCHEDULES
from gpunet.options import Options, option
from gpunet.training.metrics import METRICS


@dataclass(frozen=True)
class TrainingConfig(Options):
    """How a model is trained.

    >>> config = gn.training.TrainingConfig(optimizer="sgd", lr=0.1)
    >>> config.momentum, config.epochs
    (0.9, 15)
    >>> gn.training.TrainingConfig(lr=0)
    Traceback (most recent call last):
    ...
    gpunet.errors.ConfigError: lr must be greater than 0, got 0.0
    """

    epochs: int = option(15, "passes over the training images", low=1)
    batch_size: int = option(128, "images per step", low=1)
    loss: str = option(
        "auto",
        "what is minimised; auto: cross_entropy for classes, mse for a regression, bce_with_logits for labels",
        choices=LOSSES,
        written=False,
    )
    metric: str = option(
        "auto",
        "the metric of the validation data that decides which epoch is best; auto: accuracy, r2 or macro_f1",
        choices=METRICS,
        written=False,
    )
    optimizer: str = option("adamw", "update rule", choices=OPTIMIZERS)
    lr: float = option(2e-3, "learning rate; for one_cycle and cosine, the peak", low=0, low_open=True)
    momentum: float = option(0.9, "momentum of sgd", low=0, high=1, high_open=True)
    nesterov: bool = option(True, "Nesterov momentum (sgd)")
    beta1: float = option(0.9, "adam: decay rate of the first moment", low=0, high=1, high_open=True)
    beta2: float = option(0.999, "adam: decay rate of the second moment", low=0, high=1, high_open=True)
    weight_decay: float = option(0.0, "weight decay; not applied to biases and batch norm", low=0)
    schedule: str = option("one_cycle", "learning rate schedule", choices=SCHEDULES)
    warmup: float = option(
        0.2, "one_cycle, cosine: fraction of training spent on the rise to the peak", low=0, high=1, high_open=True
    )
    lr_step: int = option(10, "step: epochs between reductions", low=1)
    lr_factor: float = option(0.5, "step, exponential, plateau: factor of each reduction", low=0, high=1, low_open=True)
    lr_patience: int = option(3, "plateau: epochs without a better validation loss before a reduction", low=0)
    label_smoothing: float = option(0.0, "probability mass spread over all classes", low=0, high=1, high_open=True)
    class_weights: str = option(
        "none", "class weights in the loss; balanced: n / (classes * n_class)", choices=("none", "balanced")
    )
    clip_norm: float = option(0.0, "maximum L2 norm of the gradient; 0: no clipping", low=0)
    ema_decay: float = option(
        0.0,
        "per-step decay of an exponential moving average of the weights, which is validated instead of them; 0: none",
        low=0,
        high=1,
        high_open=True,
    )
    early_stopping: int = option(0, "stop after this many epochs without a better validation metric; 0: never", low=0)
    keep: str = option(
        "best",
        "weights to keep: those of the epoch with the best validation metric, or those of the last epoch",
        choices=("best", "last"),
    )
    shards: int = option(
        0,
        "equal parts of each batch whose gradients are computed one by one and added in order, so that any number of "
        "MPI ranks that divides it gets the same weights; 0: 1, or under mpiexec 8",
        low=0,
    )
    sync_batch_norm: bool = option(
        False,
        "batch norm takes mean and variance from all shards of a batch, not from each shard by itself",
        written=False,
    )
    seed: int = option(0, "seed of initialisation, shuffling, augmentation and dropout", low=0, high=2**32 - 1)
    dtype: str = option("float32", "precision of all arrays", choices=("float32", "float64"))
    precision: str = option(
        "float32",
        "on a GPU, precision of matrix products in convolutions and linear layers in training; tf32: on tensor cores",
        choices=PRECISIONS,
    )


@dataclass(frozen=True)
class HybridTrainingConfig(Options):
    """How the hybrid is trained after its CNN: the MLP on the features, then, optionally, both jointly.

    Everything else (batch size, optimiser, schedule, seed ...) is taken from :class:`TrainingConfig`.

    >>> stages = gn.training.HybridTrainingConfig(classifier_epochs=10)
    >>> stages.joint_epochs  # the features stay frozen
    0
    """

    classifier_epochs: int = option(20, "epochs of training the MLP on the features", low=1)
    classifier_lr: float = option(1e-3, "learning rate of the MLP on the features", low=0, low_open=True)
    joint_epochs: int = option(0, "epochs of training the CNN and the MLP jointly; 0: the features stay frozen", low=0)
    joint_lr: float = option(1e-4, "learning rate of joint training", low=0, low_open=True)
